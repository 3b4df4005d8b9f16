'use strict';
'require view';
'require dom';
'require form';
'require fs';
'require poll';
'require uci';
'require ui';
'require mtg.conf as conf';

/* What mtg says of itself is shown as text and never as HTML. No secret goes into an argument of a program, for everybody
   on the router can read those: a new configuration is written beside the old one, and a program of this package checks
   it and moves it (/usr/libexec/mtg-luci). */

const MTG = '/usr/bin/mtg';
const INIT = '/etc/init.d/mtg';
const CONF = '/etc/mtg.conf';
const CANDIDATE = '/etc/mtg.conf.luci';
/* The configuration that the running mtg was started with. */
const STARTED = '/var/run/mtg.started';
/* Root alone may read it. */
const PRIVATE = 0o600;
/* Exit code of the program that saves: the service did not take it. */
const SAVED_ONLY = 2;
const LOG_LINES = 200;

const GRADES = { ok: [ 'success', _('good') ], warn: [ 'warning', _('look at this') ], fail: [ 'danger', _('broken') ] };

const STYLE = `
.mtg-facts { display: grid; grid-template-columns: max-content 1fr; gap: .4em 1.2em; margin: 0 0 1em }
.mtg-facts dt { font-weight: bold; margin: 0 }
.mtg-facts dd { margin: 0; min-width: 0; overflow-wrap: anywhere }
.mtg-buttons { display: flex; flex-wrap: wrap; gap: .4em; margin: .6em 0 }
.mtg-buttons .btn { margin: 0 }
.mtg-buttons.right { justify-content: flex-end }
.mtg-links { display: flex; flex-wrap: wrap; gap: 1em; margin: .6em 0 }
.mtg-link { flex: 1 1 17em; max-width: 30em; min-width: 0 }
.mtg-link img { display: block; width: 100%; max-width: 17em; background: #fff; border-radius: 4px }
.mtg-link input { width: 100%; max-width: none; min-width: 0; box-sizing: border-box }
.mtg-link .btn { flex: none }
.mtg-finding { border-inline-start: .3em solid #888; padding-inline-start: .7em; margin: .7em 0; overflow-wrap: anywhere }
.mtg-finding.success { border-color: #46a546 } .mtg-finding.warning { border-color: #f0a020 }
.mtg-finding.danger { border-color: #d04040 }
.mtg-finding p { margin: .2em 0 }
#mtg-editor input, #mtg-editor input::placeholder, .modal input { unicode-bidi: plaintext }
.mtg-text { width: 100%; max-width: none; min-height: 24em; box-sizing: border-box; font-family: monospace; white-space: pre;
 overflow: auto; direction: ltr; text-align: left }
.mtg-log { max-height: 26em; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; direction: ltr; text-align: left }
@media (max-width: 30em) { .mtg-facts { grid-template-columns: 1fr; gap: 0 } .mtg-facts dd { margin-bottom: .6em } }
`;

/* In the unit that leaves one to three digits before the point. */
function bytes(count) {
	const units = [ 'B', 'KB', 'MB', 'GB', 'TB' ];
	let unit = 0;

	for (; count >= 1000 && unit < units.length - 1; unit++)
		count /= 1000;

	return `${unit ? count.toFixed(1) : count} ${units[unit]}`;
}

/* Commands, addresses and the like are read from left to right in every language. */
function ltr(text) {
	return E('bdi', { 'dir': 'ltr' }, [ text ]);
}

/* What a program has said, without the name that it puts before it. */
function said(result) {
	return [ result?.stdout, result?.stderr ].filter((text) => text).join('\n').replace(/^mtg: (error: )?/gm, '').trim();
}

/* In the language of the page. */
function moment(seconds) {
	const date = new Date(seconds * 1000);

	try {
		return date.toLocaleString(document.documentElement.lang.replace('_', '-') || undefined);
	}
	catch (e) {
		return date.toLocaleString();
	}
}

function report(text, kind) {
	ui.addNotification(null, E('p', { 'dir': 'auto', 'style': 'white-space:pre-wrap;overflow-wrap:anywhere' }, [ text ]), kind);
}

function button(text, style, handler) {
	return E('button', { 'class': `btn cbi-button cbi-button-${style}`, 'click': handler }, [ text ]);
}

/* "address:port", or nothing of both. */
function port(bind) {
	return /:(\d+)$/.exec(bind)?.[1] ?? '';
}

const CHECKS = {
	port: (value) => (/^\d+$/.test(value) && value >= 1 && value <= 65535) || _('A port is a number from 1 to 65535.'),
	host: (value) => value == '' || /^[A-Za-z0-9._-]+$/.test(value) ||
		_('This is the name or address alone, as in home.example.org: no http://, no port.'),
	proxy: (value) => value == '' || /^socks5:\/\/[^\s\/]+$/.test(value) ||
		_('A proxy is written socks5://HOST:PORT or socks5://USER:PASSWORD@HOST:PORT.'),
	list: (value) => value == '' || /^(\/|https?:\/\/[^\s\/]+)/.test(value) ||
		_('A list is a file, such as /etc/mtg/blocklist.txt, or an address that begins with http://.')
};

return view.extend({
	load() {
		return Promise.all([
			L.resolveDefault(fs.read(CONF), ''),
			L.resolveDefault(uci.load('mtg')),
			L.resolveDefault(uci.load('firewall')),
			this.look()
		]);
	},

	/* How the service fares; null if the router does not answer, which does not mean that mtg is down. */
	async look() {
		const [ status, enabled ] = await Promise.all([
			L.resolveDefault(fs.exec(MTG, [ 'status', '--json', STARTED ]), null),
			L.resolveDefault(fs.exec(INIT, [ 'enabled' ]), null)
		]);
		let state = {};

		if (!status || !enabled)
			return null;

		try { state = JSON.parse(status.stdout); } catch (e) {}

		return { ...state, enabled: enabled.code === 0 };
	},

	render([ text, , , state ]) {
		this.text = this.saved = text;
		this.facts = E('dl', { 'class': 'mtg-facts', 'id': 'mtg-facts' });
		this.actions = E('div', { 'class': 'mtg-buttons' });
		this.links = E('div', { 'id': 'mtg-links' });
		this.findings = E('div', { 'id': 'mtg-findings' });
		this.log = E('div', { 'id': 'mtg-log' });
		this.editor = E('div', { 'id': 'mtg-editor' });
		this.show(state);
		poll.add(() => this.refresh(), 5);

		return Promise.resolve(this.edit(conf.isPlain(text) ? 'form' : 'text')).then(() => E('div', { 'class': 'cbi-map' }, [
			E('style', {}, [ STYLE ]),
			E('h2', {}, [ _('Telegram proxy') ]),
			E('div', { 'class': 'cbi-map-descr' }, [
				_('Lets family and friends use Telegram from a censored network. To everybody else it looks like an ordinary web site.')
			]),
			this.section(_('State'), [ this.facts, this.actions ]),
			this.section(_('Links'), [
				E('p', {}, [ _('Whoever has a link can use the proxy. Scan the code with a phone, or send the link to a friend.') ]),
				E('div', { 'class': 'mtg-buttons' }, [
					button(_('Show links and QR codes'), 'action', ui.createHandlerFn(this, 'showLinks')),
					button(_('New secret...'), 'negative', ui.createHandlerFn(this, 'askForSecret'))
				]),
				this.links
			]),
			this.section(_('When it does not work'), [
				E('div', { 'class': 'mtg-buttons' }, [
					button(_('Find problems'), 'action', ui.createHandlerFn(this, 'examine')),
					button(_('Show log'), 'neutral', ui.createHandlerFn(this, 'showLog'))
				]),
				this.findings,
				this.log
			]),
			this.section(_('Configuration'), [ this.editor ])
		]));
	},

	section(title, content) {
		return E('div', { 'class': 'cbi-section' }, [ E('h3', {}, [ title ]), ...content ]);
	},

	show(state) {
		if (!state)
			return;

		const facts = [ [ _('Service'), state.running
			? _('running since %s').replace('%s', `\u2068${moment(state.since)}\u2069`)
			: _('not running') ] ];

		if (state.running)
			facts.push(
				[ _('Address'), ltr(`${state.bind_to} (mtg ${state.version})`) ],
				[ _('Clients now'), _('connections: %d').replace('%d', state.clients) ],
				[ _('Strangers now'), _('connections: %d; they see the web site').replace('%d', state.strangers) ],
				[ _('Traffic since the start'), [ ltr(`↓ ${bytes(state.bytes_to_clients)}`), ' ', ltr(`↑ ${bytes(state.bytes_from_clients)}`) ] ],
				[ _('Congestion control'), state.bbr_command
					? [ ltr(state.congestion_control), ' - ', _('on lines with losses bbr is many times as fast:'), ' ',
						E('code', { 'dir': 'ltr' }, [ state.bbr_command ]) ]
					: ltr(state.congestion_control) ]
			);

		facts.push([ _('At boot'), state.enabled ? _('is started') : _('is not started') ]);
		dom.content(this.facts, facts.flatMap(([ name, value ]) => [ E('dt', {}, [ name ]), E('dd', {}, [].concat(value)) ]));

		/* A poll must not take a button away under the mouse. */
		const shape = `${state.running} ${state.enabled}`;

		if (this.shape == shape)
			return;

		this.shape = shape;

		const act = (text, style, action) => button(text, style, ui.createHandlerFn(this, 'act', action));

		dom.content(this.actions, [
			...(state.running
				? [ act(_('Restart'), 'apply', 'restart'), act(_('Stop'), 'negative', 'stop') ]
				: [ act(_('Start'), 'apply', 'start') ]),
			state.enabled ? act(_('Do not start at boot'), 'neutral', 'disable') : act(_('Start at boot'), 'positive', 'enable')
		]);
	},

	refresh() {
		return this.look().then((state) => this.show(state));
	},

	/* Runs the init script; what it says is for the owner. */
	act(action) {
		return fs.exec(INIT, [ action ]).then((result) => {
			if (said(result))
				report(said(result), result.code ? 'danger' : 'info');
			else if (result.code)
				report(_('That did not work. The log may tell why.'), 'danger');
		}).catch((error) => report(error.message, 'danger')).then(() => this.refresh());
	},

	showLinks() {
		return fs.exec(MTG, [ 'access', CONF ]).then((result) => {
			let access = {};

			try { access = JSON.parse(result.stdout); } catch (e) {}

			const doors = [ 'ipv4', 'ipv6', 'web' ].filter((door) => access[door]);

			dom.content(this.links, [
				...(doors.length ? [] : [ E('p', { 'class': 'alert-message warning' }, [
					access.secret
						? _('No public address of this router is known. Put its name or address into "Public name" below, and save.')
						: said(result)
				]) ]),
				E('div', { 'class': 'mtg-links' }, doors.map((door) => this.link(door, access[door]))),
				...(doors.length ? [ button(_('Hide'), 'neutral', () => dom.content(this.links, [])) ] : [])
			]);
		}).catch((error) => report(error.message, 'danger'));
	},

	link(door, { ip, server, tg_url, tme_url, tg_qrcode }) {
		const title = door == 'web' ? _('WEB proxy') : ltr(ip);
		const copied = (url) => E('div', { 'class': 'mtg-buttons', 'style': 'flex-wrap:nowrap' }, [
			E('input', { 'type': 'text', 'class': 'cbi-input-text', 'readonly': '', 'dir': 'ltr', 'value': url, 'aria-label': url,
				'focus': (ev) => ev.target.select() }),
			button(_('Copy'), 'neutral', (ev) => this.copy(ev.target))
		]);

		return E('div', { 'class': 'mtg-link' }, [
			E('h4', {}, [ title ]),
			/* The picture is drawn on the router; nothing else would be shown. */
			/^data:image\/svg\+xml;base64,[A-Za-z0-9+\/=]+$/.test(tg_qrcode)
				? E('img', { 'src': tg_qrcode, 'alt': _('QR code of the link') }) : '',
			copied(tg_url),
			copied(tme_url)
		]);
	},

	/* Browsers have a clipboard for pages that came by https only. */
	copy(pressed) {
		const input = pressed.parentNode.querySelector('input');

		input.select();
		document.execCommand('copy');
		dom.content(pressed, [ _('Copied') ]);
		window.setTimeout(() => dom.content(pressed, [ _('Copy') ]), 2000);
	},

	examine() {
		dom.content(this.findings, [ E('p', { 'class': 'spinning' }, [ _('This takes up to 15 seconds...') ]) ]);

		return fs.exec(MTG, [ 'doctor', '--json', CONF ]).then((result) => {
			let findings;

			try { findings = JSON.parse(result.stdout).findings; } catch (e) {}

			/* The worst comes first. */
			const worst = Object.keys(GRADES).reverse();

			findings?.sort((one, other) => worst.indexOf(one.grade) - worst.indexOf(other.grade));
			dom.content(this.findings, findings
				? findings.map(({ subject, grade, text, advice }, at) => {
					const [ kind, word ] = GRADES[grade] ?? [ '', grade ];

					return E('div', { 'class': `mtg-finding ${kind}`, 'dir': 'ltr' }, [
						E('p', {}, [ E('strong', {}, [ subject ]), ' - ', E('em', { 'dir': 'auto' }, [ word ]) ]),
						E('p', {}, [ text ]),
						/* What helps against several in a row is said once. */
						advice && advice != findings[at + 1]?.advice ? E('p', {}, [ '→ ', advice ]) : ''
					]);
				})
				: [ E('p', { 'class': 'alert-message danger', 'dir': 'auto', 'style': 'white-space:pre-wrap' }, [ said(result) ]) ]);
		}).catch((error) => {
			dom.content(this.findings, []);
			report(error.message, 'danger');
		});
	},

	showLog() {
		return fs.exec('/sbin/logread', [ '-e', 'mtg' ]).then((result) => {
			const lines = said(result).split('\n').slice(-LOG_LINES).join('\n');

			dom.content(this.log, [
				lines ? E('pre', { 'class': 'mtg-log' }, [ lines ]) : E('p', {}, [ _('The log has nothing of mtg.') ]),
				button(_('Hide'), 'neutral', () => dom.content(this.log, []))
			]);
			this.log.firstChild.scrollTop = this.log.firstChild.scrollHeight;
		}).catch((error) => report(error.message, 'danger'));
	},

	/* Shows the configuration as a form, or as text. */
	edit(kind) {
		this.kind = kind;

		const change = (to) => ui.createHandlerFn(this, () => this.current().then((text) => {
			if (text == null)
				return;

			if (to == 'form' && !conf.isPlain(text))
				return report(_('This file has sections or lists, which the form cannot show.'), 'info');

			this.text = text;

			return this.edit(to);
		}));
		const buttons = (other) => E('div', { 'class': 'mtg-buttons' }, [
			button(_('Check and save'), 'save', ui.createHandlerFn(this, () => this.current().then((text) => text != null && this.save(text)))),
			other
		]);

		if (kind == 'text') {
			this.area = E('textarea', { 'class': 'mtg-text cbi-input-textarea', 'spellcheck': 'false', 'wrap': 'off',
				'aria-label': CONF }, [ this.text ]);
			dom.content(this.editor, [
				E('p', {}, [ _('Every key is explained by:'), ' ', E('code', { 'dir': 'ltr' }, [ 'mtg run --help' ]) ]),
				this.area,
				buttons(button(_('Edit as a form'), 'neutral', change('form')))
			]);

			return Promise.resolve();
		}

		return this.form().render().then((node) => dom.content(this.editor, [
			node,
			buttons(button(_('Edit as text'), 'neutral', change('text')))
		]));
	},

	form() {
		const text = this.text;
		const zone = this.zone ?? uci.get('mtg', 'main', 'zone') ?? '';
		const proxies = conf.values(text, 'network.proxies');

		this.data = { conf: {
			port: port(conf.value(text, 'bind-to')),
			zone: zone,
			host: conf.value(text, 'public-host'),
			proxies: proxies,
			blocks: conf.value(text, 'defense.blocklist.enabled') == 'true' ? '1' : '0',
			lists: conf.values(text, 'defense.blocklist.urls')
		} };
		this.map = new form.JSONMap(this.data);

		const s = this.map.section(form.NamedSection, 'conf', 'conf');
		const option = (type, name, title, description, check) => {
			const o = s.option(type, name, title, description);

			/* Else only what differs from when the form was drawn would come, and nobody could take a change back. */
			o.forcewrite = true;

			if (check)
				o.validate = (section, value) => check(value ?? '');

			return o;
		};

		const site = option(form.DummyValue, 'site', _('Web site'),
			_('What the proxy looks like. It is part of the secret: "New secret..." above changes it.'));

		site.cfgvalue = () => conf.site(conf.value(text, 'secret')) || '-';

		option(form.Value, 'port', _('Port'),
			_('443 is what web sites use, and the best if the web interface of the router is not there. It is part of the links.'),
			CHECKS.port).rmempty = false;

		const zones = option(form.ListValue, 'zone', _('Let clients in from'), _('The zone of the firewall, for as long as the proxy runs.'));

		zones.value('', _('nowhere'));
		[ ...new Set([ ...uci.sections('firewall', 'zone').map((each) => each.name), zone ]) ].filter((name) => name)
			.forEach((name) => zones.value(name, name));

		option(form.Value, 'host', _('Public name'),
			_('The name or address of this router that goes into links, such as that of a dynamic DNS service. Empty: it is looked up.'),
			CHECKS.host).placeholder = 'home.example.org';
		option(form.DynamicList, 'proxies', _('SOCKS5 proxies'),
			_('Ways to Telegram, where the provider blocks it.'), CHECKS.proxy).placeholder = 'socks5://192.0.2.1:1080';
		option(form.Flag, 'blocks', _('Use a blocklist'), _('Whose address is in one of these lists gets to see the web site alone.'));
		option(form.DynamicList, 'lists', _('Blocklists'), _('Files on the router, or addresses that begin with http://.'),
			CHECKS.list).placeholder = '/etc/mtg/blocklist.txt';

		return this.map;
	},

	/* The text as it would be saved; null if the form has a mistake, which is shown there. */
	current() {
		if (this.kind == 'text')
			return Promise.resolve(this.area.value.replace(/\r\n/g, '\n'));

		return this.map.parse().then(() => {
			const now = this.data.conf;
			const list = (value) => L.toArray(value).filter((each) => each);
			const one = (value) => value ? [ value ] : [];
			const bind = conf.value(this.text, 'bind-to') || '0.0.0.0:8443';
			let text = this.text;

			this.zone = now.zone ?? '';
			text = conf.change(text, 'bind-to', [ bind.replace(/:\d*$/, '') + ':' + now.port ]);
			text = conf.change(text, 'public-host', one(now.host));
			text = conf.change(text, 'network.proxies', list(now.proxies));

			if ((now.blocks == '1') != (conf.value(text, 'defense.blocklist.enabled') == 'true'))
				text = conf.change(text, 'defense.blocklist.enabled', [ now.blocks == '1' ? 'true' : 'false' ]);

			return conf.change(text, 'defense.blocklist.urls', list(now.lists));
		}, (error) => {
			report(_('Nothing was saved. Mend what is marked in red first.') + '\n' + error.message, 'danger');

			return null;
		});
	},

	/* Puts a text into the place of the configuration, if mtg has no objection. */
	async save(text) {
		const zone = this.zone ?? uci.get('mtg', 'main', 'zone') ?? '';

		try {
			if (await L.resolveDefault(fs.read(CONF), '') != this.saved) {
				report(_('Nothing was saved: somebody else has changed the file meanwhile. Load this page again.'), 'danger');

				return false;
			}

			await fs.write(CANDIDATE, text, PRIVATE);

			const result = await fs.exec('/usr/libexec/mtg-luci', [ 'save', zone ]);

			if (result.code && result.code != SAVED_ONLY) {
				report(_('Nothing was saved:') + '\n' + said(result), 'danger');

				return false;
			}

			report([ result.code ? _('Saved, but the service does not work with it:') : _('Saved.'), said(result) ].join('\n').trim(),
				result.code ? 'danger' : 'info');
			this.text = this.saved = text;
			dom.content(this.links, []);
			await this.refresh();

			return true;
		}
		catch (error) {
			report(error.message, 'danger');

			return false;
		}
	},

	askForSecret() {
		const site = new ui.Textfield(conf.site(conf.value(this.text, 'secret')), { 'placeholder': 'www.google.com' });

		ui.showModal(_('New secret'), [
			E('p', {}, [ _('With a new secret all links that you have given away stop working, and everybody needs a new one.') ]),
			E('p', {}, [
				_('The web site that the proxy looks like: a large one with TLS 1.3 that works from here, or best one of your own whose name leads to this router.')
			]),
			site.render(),
			E('div', { 'class': 'right mtg-buttons' }, [
				button(_('Cancel'), 'neutral', ui.hideModal),
				button(_('Replace the secret'), 'negative', ui.createHandlerFn(this, () => this.replaceSecret(site.getValue().trim())))
			])
		]);
	},

	async replaceSecret(site) {
		const edited = await this.current();

		if (edited == null)
			return;

		const result = await L.resolveDefault(fs.exec(MTG, [ 'generate-secret', site ]), { code: 1 });

		if (result.code)
			return report(said(result) || _('That did not work. The log may tell why.'), 'danger');

		const secret = [ result.stdout.trim() ];

		/* What is being edited is not saved along. */
		if (await this.save(conf.change(this.saved, 'secret', secret))) {
			ui.hideModal();
			this.text = conf.change(edited, 'secret', secret);
			await this.edit(this.kind);

			return this.showLinks();
		}
	},

	handleSaveApply: null,
	handleSave: null,
	handleReset: null
});
