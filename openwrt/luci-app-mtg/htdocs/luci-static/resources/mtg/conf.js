'use strict';
'require baseclass';

/* The text of /etc/mtg.conf: finds keys and changes them, and leaves all else in it, comments above all, as it is. */

const LINE = /^\s*([A-Za-z0-9_.-]+)\s*=\s*(.*)$/;

/* A value without its quotes and without a comment behind it. */
function bare(value) {
	const quoted = /^(["'])(.*?)\1\s*(#.*)?$/.exec(value);

	return quoted ? quoted[2] : value.replace(/(^|\s)#.*$/, '').trim();
}

function line(key, value) {
	const quote = value.includes('"') ? "'" : '"';

	return `${key} = ${/[\s#"']|^$/.test(value) ? quote + value + quote : value}`;
}

function keyOf(text) {
	return LINE.exec(text)?.[1];
}

/* The bytes of a secret in hex or base64url; none if it is neither. */
function bytesOf(secret) {
	if (/^([0-9a-f]{2})+$/i.test(secret))
		return secret.match(/../g).map((pair) => parseInt(pair, 16));

	try {
		return Array.from(atob(secret.replace(/-/g, '+').replace(/_/g, '/')), (c) => c.charCodeAt(0));
	}
	catch (e) {
		return [];
	}
}

return baseclass.extend({
	/* Whether all of it is "key = value" and comments; sections and lists of TOML are left to people. An address of IPv6
	   with its port, [::]:8443, is none. */
	isPlain(text) {
		return text.split('\n').every((each) => (/^\s*(#|$)/.test(each) ||
			(keyOf(each) && !/=\s*\[(?![0-9a-f:.]*\]:\d)/i.test(each))));
	},

	/* All values of a key. */
	values(text, key) {
		return text.split('\n').map((each) => LINE.exec(each)).filter((found) => found?.[1] == key)
			.map((found) => bare(found[2]));
	},

	/* The value of a key that has one. */
	value(text, key) {
		return this.values(text, key)[0] ?? '';
	},

	/* The text with these values, and no others, for a key; what has not changed keeps its line. */
	change(text, key, values) {
		const old = this.values(text, key);

		if (old.length == values.length && old.every((value, at) => value == values[at]))
			return text;

		const lines = text.replace(/\n*$/, '').split('\n');
		const sample = new RegExp(`^#\\s*${key.replace(/\./g, '\\.')}\\s*=`);
		let at = lines.findIndex((each) => keyOf(each) == key);

		if (at < 0)
			at = lines.findIndex((each) => sample.test(each)) + 1 || lines.length;

		const before = lines.slice(0, at);
		const after = lines.slice(at).filter((each) => keyOf(each) != key);

		return [ ...before, ...values.map((value) => line(key, value)), ...after ].join('\n') + '\n';
	},

	/* The web site in a secret, behind the byte that says its kind and the 16 of the key. */
	site(secret) {
		return bytesOf(secret).slice(17).map((byte) => String.fromCharCode(byte)).join('');
	}
});
