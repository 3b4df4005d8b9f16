# shellcheck shell=dash disable=SC2034,SC2154
# Stands in for OpenWrt's /lib/functions/procd.sh and jshn.sh: what procd is told goes to the stand-in of ubus as lines
# "PATH=VALUE", with "PATH/=" for each object and array.

json_init() {
	_json='' _path=''
}

json_add_string() {
	_json="$_json$_path$1=$2
"
}

json_add_object() {
	json_add_string "$1/" ''
	_path="$_path$1/"
}

json_add_array() {
	json_add_object "$1"
}

json_close_object() {
	_path=${_path%/}
	case "$_path" in
		*/*) _path=${_path%/*}/ ;;
		*) _path='' ;;
	esac
}

json_close_array() {
	json_close_object
}

json_dump() {
	printf '%s' "$_json"
}

procd_lock() {
	! flock -n 9 2>/dev/null || return 0
	exec 9>"/tmp/procd_$name.lock"
	flock 9
}

_procd_call() {
	ubus call service "$1" "$(json_dump)"
}

procd_open_service() {
	json_init
	json_add_string name "$1"
	json_add_object instances
}

procd_close_service() {
	json_close_object
	json_add_object triggers
	service_triggers
	json_close_object
	# Always: what the script does not say is taken away.
	json_add_object data
	service_data
	json_close_object
	_procd_call "${1:-set}"
}

procd_open_instance() {
	json_add_object "$1"
}

procd_close_instance() {
	json_close_object
}

procd_set_param() {
	local key=$1
	shift
	json_add_string "$key" "$*"
}

procd_add_jail() {
	json_add_string jail "$*"
}

procd_add_jail_mount() {
	json_add_string jail_mount "$*"
}

procd_add_jail_mount_rw() {
	json_add_string jail_mount_rw "$*"
}

procd_add_reload_trigger() {
	json_add_string "$1" "/etc/init.d/$name reload"
}

procd_set_config_changed() {
	json_init
	json_add_string package "$1"
	_procd_call event
}

procd_kill() {
	json_init
	json_add_string name "$1"
	_procd_call delete
}

procd_running() {
	ubus call service list | grep -qx "$1 ${2:-.*} true"
}

procd_send_signal() {
	json_init
	json_add_string name "$1"
	json_add_string instance "$2"
	json_add_string signal "$3"
	_procd_call signal
}
