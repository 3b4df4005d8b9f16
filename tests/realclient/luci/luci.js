/* Stands in for as much of LuCI's client side as the page of luci-app-mtg uses: its loader of modules, E, L, rpc, fs, uci,
   ui, form, poll and translations. Where LuCI takes a text for HTML, this does, too. */
'use strict';

const dom = {
	content(node, children) {
		node.replaceChildren();

		return dom.append(node, children);
	},

	append(node, children) {
		if (Array.isArray(children))
			children.forEach((child) => child != null && node.append(child));
		else if (children instanceof Node)
			node.appendChild(children);
		else if (children != null)
			node.insertAdjacentHTML('beforeend', String(children));

		return node;
	}
};

function E(tag, attributes, children) {
	const node = document.createElement(tag);

	for (const [ name, value ] of Object.entries(attributes ?? {})) {
		if (typeof value == 'function')
			node.addEventListener(name, value);
		else if (value != null)
			node.setAttribute(name, value);
	}

	return dom.append(node, children);
}

/* Paul Hsieh's hash of a text, by which translations are found. */
function hashOf(text) {
	const bytes = new TextEncoder().encode(text.trim().replace(/\s+/g, ' '));
	const word = (at) => bytes[at] | bytes[at + 1] << 8;
	let hash = bytes.length, at = 0;

	for (; at + 4 <= bytes.length; at += 4) {
		hash = hash + word(at) | 0;
		hash = hash << 16 ^ (word(at + 2) << 11 ^ hash);
		hash = hash + (hash >>> 11) | 0;
	}

	const rest = bytes.length - at;

	if (rest == 3) {
		hash = hash + word(at) | 0;
		hash ^= hash << 16;
		hash ^= (bytes[at + 2] << 24 >> 24) << 18;
		hash = hash + (hash >>> 11) | 0;
	}
	else if (rest == 2) {
		hash = hash + word(at) | 0;
		hash ^= hash << 11;
		hash = hash + (hash >>> 17) | 0;
	}
	else if (rest == 1) {
		hash = hash + (bytes[at] << 24 >> 24) | 0;
		hash ^= hash << 10;
		hash = hash + (hash >>> 1) | 0;
	}

	for (const [ left, right ] of [ [ 3, 5 ], [ 4, 17 ], [ 25, 6 ] ]) {
		hash ^= hash << left;
		hash = hash + (hash >>> right) | 0;
	}

	return (hash >>> 0).toString(16).padStart(8, '0');
}

const missing = new Set();

function _(text) {
	const found = window.TR?.[hashOf(text)];

	if (window.TR && !found)
		missing.add(text);

	return found ?? text;
}

const L = {
	resolveDefault: (promise, otherwise) => Promise.resolve(promise).catch(() => otherwise),
	toArray: (value) => value == null ? [] : Array.isArray(value) ? value : String(value).split(/\s+/).filter((each) => each),
	isObject: (value) => value != null && typeof value == 'object'
};

class Base {
	static extend(properties) {
		const derived = class extends this {};

		Object.assign(derived.prototype, properties);

		return derived;
	}
}

class View extends Base {
	async start() {
		const content = await this.render(await this.load());

		dom.content(document.getElementById('view'), content);
		document.body.classList.add('ready');
	}
}

async function call(object, method, params) {
	const answer = await fetch('/ubus/', { method: 'POST', body: JSON.stringify({
		jsonrpc: '2.0', id: 1, method: 'call', params: [ '0'.repeat(32), object, method, params ] }) });
	const [ code, data ] = (await answer.json()).result;

	if (code)
		throw Object.assign(new Error(`RPC call to ${object}/${method} failed with error ${code}`), { name: 'PermissionError' });

	return data;
}

const fs = {
	read: (path) => call('file', 'read', { path }).then((answer) => answer.data),
	write: (path, data, mode) => call('file', 'write', { path, data: String(data ?? ''), mode: mode ?? 0o644 }),
	exec: (command, params) => call('file', 'exec', { command, params })
};

const uci = {
	configs: {},
	load: (config) => call('uci', 'get', { config }).then((answer) => uci.configs[config] = answer.values),
	get: (config, section, option) => uci.configs[config]?.[section]?.[option] ?? null,
	sections: (config, type) => Object.values(uci.configs[config] ?? {}).filter((section) => section['.type'] == type)
};

const poll = {
	all: [],
	add: (look, seconds) => poll.all.push(setInterval(look, seconds * 1000))
};

class Textfield extends Base {
	constructor(value, { placeholder } = {}) {
		super();
		Object.assign(this, { value, placeholder });
	}

	render() {
		this.node = E('input', { type: 'text', class: 'cbi-input-text', value: this.value, placeholder: this.placeholder });

		return this.node;
	}

	getValue() {
		return this.node.value;
	}
}

const ui = {
	Textfield,

	createHandlerFn(context, handler, ...given) {
		const act = typeof handler == 'string' ? context[handler] : handler;

		return (event) => {
			const pressed = event.currentTarget;

			pressed.classList.add('spinning');
			pressed.disabled = true;

			return Promise.resolve(act.call(context, ...given, event)).finally(() => {
				pressed.classList.remove('spinning');
				pressed.disabled = false;
			});
		};
	},

	addNotification(title, children, ...kinds) {
		const close = E('button', { class: 'btn', style: 'float:inline-end', click: () => message.remove() }, [ _('Dismiss') ]);
		const message = E('div', { class: [ 'alert-message', 'fade-in', ...kinds ].join(' ') }, [ close, ...[].concat(children) ]);

		document.getElementById('maincontent').prepend(message);

		return message;
	},

	showModal(title, children) {
		dom.content(document.getElementById('modal'), [ E('h4', {}, [ title ]), ...[].concat(children) ]);
		document.body.classList.add('modal-overlay-active');
	},

	hideModal() {
		document.body.classList.remove('modal-overlay-active');
		dom.content(document.getElementById('modal'), []);
	}
};

class Value extends Base {
	constructor(map, section, name, title, description) {
		super();
		Object.assign(this, { map, section, name, title, description, rmempty: true, choices: [] });
	}

	value(key, text) {
		this.choices.push([ key, text ]);
	}

	cfgvalue() {
		return this.map.data[this.section][this.name];
	}

	validate() {
		return true;
	}

	input(value) {
		return E('input', { type: 'text', class: 'cbi-input-text', value: value ?? '', placeholder: this.placeholder });
	}

	widget() {
		this.field = this.input(this.cfgvalue());

		return this.field;
	}

	formvalue() {
		return this.field.value;
	}

	/* Each value of the field, for the check. */
	fields() {
		return [ this.field ];
	}

	check() {
		const faults = this.fields().map((field) => {
			const fault = !field.value && !this.rmempty ? _('must not be empty') : this.validate(this.section, field.value);

			field.classList.toggle('cbi-input-invalid', fault !== true);
			field.title = fault === true ? '' : fault;

			return fault;
		}).filter((fault) => fault !== true);

		this.note.textContent = faults.join(' ');

		return !faults.length;
	}

	render() {
		this.drawn = this.cfgvalue();
		this.note = E('div', { class: 'mistake' });

		const field = E('div', { class: 'cbi-value-field', change: () => this.check(), input: () => this.check() }, [
			this.widget(),
			this.note,
			E('div', { class: 'cbi-value-description' }, [ this.description ])
		]);

		return E('div', { class: 'cbi-value', 'data-name': this.name }, [
			E('label', { class: 'cbi-value-title' }, [ this.title ]), field
		]);
	}

	parse() {
		if (!this.check())
			throw new TypeError(`Option "${this.title}" contains an invalid input value. ${this.note.textContent}`);

		const value = this.formvalue();

		if (!value.length && this.rmempty)
			delete this.map.data[this.section][this.name];
		else if (this.forcewrite || String(value) != String(this.drawn ?? ''))
			this.map.data[this.section][this.name] = value;
	}
}

class ListValue extends Value {
	widget() {
		this.field = E('select', { class: 'cbi-input-select' }, this.choices.map(([ key, text ]) => E('option', { value: key }, [ text ])));
		this.field.value = this.cfgvalue();

		return this.field;
	}
}

class Flag extends Value {
	widget() {
		this.field = E('input', { type: 'checkbox' });
		this.field.checked = this.cfgvalue() == '1';

		return this.field;
	}

	formvalue() {
		return this.field.checked ? '1' : '';
	}
}

class DynamicList extends Value {
	widget() {
		const list = E('div', { class: 'cbi-dynlist' });
		const add = (value) => list.appendChild(this.input(value));

		L.toArray(this.cfgvalue()).forEach(add);
		add('');
		list.addEventListener('input', () => list.lastChild.value && add(''));
		this.list = list;

		return list;
	}

	fields() {
		return [ ...this.list.children ];
	}

	formvalue() {
		return this.fields().map((field) => field.value).filter((value) => value);
	}
}

class DummyValue extends Value {
	widget() {
		return E('span', {}, [ this.cfgvalue() ]);
	}

	fields() {
		return [];
	}

	parse() {}
}

class JSONMap extends Base {
	constructor(data) {
		super();
		this.data = data;
		this.options = [];
	}

	section(type, name) {
		return { option: (kind, ...words) => {
			const option = new kind(this, name, ...words);

			this.options.push(option);

			return option;
		} };
	}

	async render() {
		return E('div', { class: 'cbi-map' }, [ E('div', { class: 'cbi-section-node' }, this.options.map((option) => option.render())) ]);
	}

	async parse() {
		const faults = [];

		this.options.forEach((option) => { try { option.parse(); } catch (fault) { faults.push(fault); } });

		if (faults.length)
			throw faults[0];
	}
}

const form = { JSONMap, NamedSection: 'NamedSection', Value, ListValue, Flag, DynamicList, DummyValue };
const modules = { view: View, baseclass: Base, dom, fs, uci, ui, poll, form };

/* A module of the page: what it requires first, then its one class. */
async function load(name) {
	if (modules[name])
		return modules[name];

	const source = await (await fetch(`/luci-static/resources/${name.replace(/\./g, '/')}.js`)).text();
	const wanted = [ ...source.matchAll(/^'require ([\w.-]+)(?: as (\w+))?';$/gm) ];
	const values = await Promise.all(wanted.map((found) => load(found[1])));
	const made = new Function('L', 'E', '_', ...wanted.map((found) => found[2] ?? found[1]), source)(L, E, _, ...values);

	modules[name] = new made();

	return modules[name];
}

window.addEventListener('load', () => load('view.mtg.overview').then((view) => view.start()));
