# shellcheck shell=dash disable=SC2034,SC2154
# Stands in for OpenWrt's /lib/functions.sh: as much of it as packages and init scripts use, and no more.

list_contains() {
	case " $(eval "echo \"\$$1\"") " in *" $2 "*) return 0 ;; esac
	return 1
}

config_load() {
	_package=$1
}

# config_get VARIABLE SECTION OPTION [DEFAULT]
config_get() {
	_value=$(sed -n "s/^[[:space:]]*option $3 '\(.*\)'\$/\1/p" "/etc/config/$_package")
	eval "$1=\${_value:-\${4:-}}"
}

_name_of() {
	basename "${1%.*}"
}

_add_user() {
	grep -q '^Require-User: mtg:mtg$' "$IPKG_INSTROOT/usr/lib/opkg/info/$1.control" || return 0
	grep -q '^mtg:' "$IPKG_INSTROOT/etc/passwd" && return
	echo 'mtg:x:32768:' >>"$IPKG_INSTROOT/etc/group"
	echo 'mtg:x:32768:32768:mtg:/var/run/mtg:/bin/false' >>"$IPKG_INSTROOT/etc/passwd"
}

_files_in() {
	grep "^$2/" "$IPKG_INSTROOT/usr/lib/opkg/info/$1.list"
}

_run_defaults() {
	local file
	for file in $(_files_in "$1" /etc/uci-defaults); do
		# shellcheck disable=SC1090
		(cd /etc/uci-defaults && . "$file") && rm -f "$file"
	done
}

default_postinst() {
	local name init
	name=$(_name_of "$1")
	_add_user "$name"
	[ -n "$IPKG_INSTROOT" ] || _run_defaults "$name"
	for init in $(_files_in "$name" /etc/init.d); do
		if [ -n "$IPKG_INSTROOT" ]; then
			sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$init" enable
		else
			[ "$PKG_UPGRADE" = 1 ] || "$init" enable
			"$init" start
		fi
	done
}

default_prerm() {
	local name init
	name=$(_name_of "$1")
	for init in $(_files_in "$name" /etc/init.d); do
		if [ -n "$IPKG_INSTROOT" ]; then
			sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$init" disable
		else
			[ "$PKG_UPGRADE" = 1 ] || "$init" disable
			"$init" stop
		fi
	done
}
