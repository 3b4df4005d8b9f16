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

# With opkg a package's name is that of the script that runs, with apk it is in a variable.
_package_of() {
	echo "${pkgname:-$(basename "${1%.*}")}"
}

_list_of() {
	cat "$IPKG_INSTROOT/usr/lib/opkg/info/$1.list" "$IPKG_INSTROOT/lib/apk/packages/$1.list" 2>/dev/null
}

_wants_user() {
	grep -q '^Require-User: mtg:mtg$' "$IPKG_INSTROOT/usr/lib/opkg/info/$1.control" 2>/dev/null ||
		grep -qx 'mtg:mtg' "$IPKG_INSTROOT/lib/apk/packages/$1.rusers" 2>/dev/null
}

add_group_and_user() {
	_wants_user "$(_package_of "$0")" || return 0
	grep -q '^mtg:' "$IPKG_INSTROOT/etc/passwd" && return
	echo 'mtg:x:32768:' >>"$IPKG_INSTROOT/etc/group"
	echo 'mtg:x:32768:32768:mtg:/var/run/mtg:/bin/false' >>"$IPKG_INSTROOT/etc/passwd"
}

_run_defaults() {
	local file
	for file in $(_list_of "$1" | grep '^/etc/uci-defaults/'); do
		# shellcheck disable=SC1090
		(cd /etc/uci-defaults && . "$file") && rm -f "$file"
	done
}

# With apk the caller has made the user.
default_postinst() {
	local package init
	package=$(_package_of "$0")
	[ -n "$pkgname" ] || add_group_and_user
	[ -n "$IPKG_INSTROOT" ] || _run_defaults "$package"
	for init in $(_list_of "$package" | grep '^/etc/init.d/'); do
		if [ -n "$IPKG_INSTROOT" ]; then
			sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$init" enable
		else
			[ "$PKG_UPGRADE" = 1 ] || "$init" enable
			"$init" start
		fi
	done
	return 0
}

default_prerm() {
	local package init
	package=$(_package_of "$0")
	for init in $(_list_of "$package" | grep '^/etc/init.d/'); do
		if [ -n "$IPKG_INSTROOT" ]; then
			sh "$IPKG_INSTROOT/etc/rc.common" "$IPKG_INSTROOT$init" disable
		else
			[ "$PKG_UPGRADE" = 1 ] || "$init" disable
			"$init" stop
		fi
	done
	return 0
}
