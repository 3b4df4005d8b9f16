# shellcheck shell=dash disable=SC2154
# Stands in for OpenWrt's /lib/functions/procd.sh and for procd itself: keeps the parameters of the one instance in
# /tmp/procd/NAME, a line for each call, and runs it. It jails nothing and restarts nothing that has died.

_spec=/tmp/procd/$name

_note() {
	echo "$*" >>"$_spec.new"
}

procd_open_instance() { :; }
procd_close_instance() { :; }
procd_open_data() { :; }
procd_close_data() { :; }
procd_set_param() { _note "$@"; }
procd_add_jail() { _note jail "$@"; }
procd_add_jail_mount() { _note jail_mount "$@"; }
procd_set_config_changed() { echo "$1" >>/tmp/procd/changed; }
json_add_array() { _note array "$@"; }
json_add_object() { :; }
json_add_string() { _note data "$@"; }
json_close_object() { :; }
json_close_array() { :; }

procd_running() {
	[ -s "$_spec.pid" ] && kill -0 "$(cat "$_spec.pid")" 2>/dev/null
}

procd_send_signal() {
	procd_running && kill -s "${3:-HUP}" "$(cat "$_spec.pid")"
}

_value_of() {
	sed -n "s/^$1 //p" "$_spec"
}

_service_begin() {
	mkdir -p /tmp/procd
	: >"$_spec.new"
}

# Like procd: no change of parameters or files, no restart.
_service_set() {
	local files
	files=$(sed -n 's/^file //p' "$_spec.new")
	# shellcheck disable=SC2086
	md5sum $files >>"$_spec.new"
	if procd_running && cmp -s "$_spec.new" "$_spec"; then
		rm "$_spec.new"
		return
	fi
	_service_delete
	mv "$_spec.new" "$_spec"
	_run
}

_run() {
	local user files
	user=$(_value_of user)
	files=$(_value_of limits | sed -n 's/.*nofile=\([0-9]*\).*/\1/p')
	rm -f "$_spec.started"
	# The subshell is the parent that learns of the end.
	(
		ulimit -n "${files:-1024}"
		# shellcheck disable=SC2046
		set -- $(_value_of command)
		program=$1
		shift
		start-stop-daemon -S ${user:+-c "$user:$(_value_of group)"} -x "$program" -- "$@" &
		echo $! >"$_spec.pid"
		: >"$_spec.started"
		wait $!
		rm -f "$_spec.pid"
	) >>/tmp/log 2>&1 </dev/null &
	while ! [ -e "$_spec.started" ]; do sleep 0.1; done
}

_service_delete() {
	procd_running || return 0
	kill "$(cat "$_spec.pid")"
	while [ -e "$_spec.pid" ]; do sleep 0.1; done
}
