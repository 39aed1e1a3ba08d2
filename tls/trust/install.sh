#!/bin/sh
# Makes the container tools of this machine trust the certificate authority (CA) of a Berth registry, for images of that
# registry only.
#
#   sh install.sh HOST:PORT SHA256 [--ca FILE] [--system]
#   sh install.sh HOST:PORT [SHA256] --uninstall
#
# SHA256 is the checksum of the CA's certificate, as a PEM file: a certificate with another one is refused. It is fetched
# from https://HOST:PORT/trust/ca.crt, or taken from FILE.
#
# --system     trust the CA in the system's own store too: for every site, not only for the registry
# --uninstall  remove what this script installed, and nothing else. It needs no network. Without SHA256 it goes by the
#              marks that the script left: a file FILE.by-berth beside each that it installed, and .by-berth in each
#              directory that it made
#
# As root it installs for the whole machine, else for the user who runs it. DESTDIR in the environment is put before every
# path that is looked at or written, as when a package is made; the system's store is then not refreshed.
#
# Everything is in functions, and the last line calls them: of a file that was cut off, nothing runs.

set -euf
umask 022
LC_ALL=C
export LC_ALL
unset IFS
everywhere=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin # su leaves out some of them

say() { printf '%s\n' "$*"; }

fail() {
	printf 'install.sh: %s\n' "$*" >&2
	exit 1
}

usage() {
	cat <<-END
		usage: install.sh HOST:PORT SHA256 [--ca FILE] [--system]
		       install.sh HOST:PORT [SHA256] --uninstall
	END
}

# --- what is asked for

parse() {
	target='' hash='' ca='' system=false uninstall=false
	while [ $# -gt 0 ]; do
		case $1 in
		--system) system=true ;;
		--uninstall) uninstall=true ;;
		--ca)
			[ $# -gt 1 ] || fail "--ca needs a file"
			ca=$2
			shift
			;;
		-h | --help)
			usage
			exit 0
			;;
		-*) fail "unknown option: $1" ;;
		*)
			if [ -z "$target" ]; then
				target=$1
			elif [ -z "$hash" ]; then
				hash=$1
			else
				fail "too many arguments: $1"
			fi
			;;
		esac
		shift
	done
	if [ -z "$hash" ] && { [ -z "$target" ] || ! $uninstall; }; then
		usage >&2
		exit 1
	fi
	valid_target || fail "not HOST:PORT, such as registry.lan:5000, 192.168.1.18:5000 or [fd00::18]:5000: $target"
	[ -z "$hash" ] || valid_hash || fail "not a SHA-256 checksum (64 hexadecimal digits, in lower case): $hash"
}

# valid_target splits $target. It becomes part of paths, commands and files: what gets through is made of the characters
# of names and addresses, does not begin like an option and can't lead to another directory.
valid_target() {
	case $target in
	*[!][A-Za-z0-9.:_-]* | *..*) return 1 ;;
	*:*) ;;
	*) return 1 ;;
	esac
	host=${target%:*} port=${target##*:}
	case $port in
	'' | 0* | *[!0-9]* | ??????*) return 1 ;;
	esac
	[ "$port" -le 65535 ] && [ "${#host}" -le 253 ] || return 1
	case $host in
	\[*\]) valid_ipv6 "$host" ;;
	[!A-Za-z0-9]* | '' | *[]:[]*) return 1 ;;
	esac
}

valid_ipv6() {
	case $1 in
	\[*[!0-9a-fA-F:.]*\]) return 1 ;;
	\[*:*:*\]) ;;
	*) return 1 ;;
	esac
}

valid_hash() {
	case $hash in
	*[!0-9a-f]*) return 1 ;;
	esac
	[ "${#hash}" -eq 64 ]
}

# --- what this machine has

# look finds out for whom is installed. With sudo, also for the user who called it: Docker may run as that user.
look() {
	root=${DESTDIR:-}
	names=$target
	if [ "$port" = 443 ]; then
		names="$target $host"
	fi
	owner='' user=${HOME:-/} settings=${XDG_CONFIG_HOME:-${HOME:-}/.config}
	administrator=false
	if [ "$(id -u)" = 0 ] || [ -n "$root" ]; then
		administrator=true
	fi
	if $administrator && [ -n "${SUDO_UID:-}" ] && [ -n "${SUDO_GID:-}" ]; then
		home=$(getent passwd "$SUDO_UID" | cut -d: -f6)
		if [ -n "$home" ]; then
			owner=$SUDO_UID:$SUDO_GID user=$home settings=$home/.config
		fi
	fi
	first=''
}

# has reports whether one of the programs is installed.
has() (
	IFS=:
	for program in "$@"; do
		for directory in $everywhere; do
			if [ -n "$directory" ] && [ -x "$root$directory/$program" ]; then
				exit 0
			fi
		done
	done
	exit 1
)

# found reports whether there is a directory or else one of the programs that would have made it.
found() {
	[ -d "$root$1" ] && return
	shift
	has "$@"
}

rootless_docker() {
	[ -d "$root$settings/docker" ] || [ -d "$root$user/.local/share/docker" ] ||
		[ -e "$root$settings/systemd/user/docker.service" ]
}

# --- files

checksum() {
	sum=$(sha256sum <"$1") || return 1
	printf '%s\n' "${sum%% *}"
}

same() { [ -f "$2" ] && [ "$(checksum "$1")" = "$(checksum "$2")" ]; }

own() {
	case $1 in
	"$root$user"/*) [ -z "$owner" ] || chown -h "$owner" "$1" ;;
	esac
}

# straight reports whether a file may be written: in the home of the user of sudo, root follows no symbolic link. They are
# that user's, and could lead anywhere. One that is put there in the moment between looking and writing is not noticed.
straight() {
	walked=$1
	case $walked in
	"$user"/*) [ -n "$owner" ] || return 0 ;;
	*) return 0 ;;
	esac
	while [ "$walked" != "$user" ]; do
		[ ! -L "$root$walked" ] || return 1
		walked=${walked%/*}
	done
}

make_directory() {
	if [ ! -d "$root$1" ]; then
		[ -z "$1" ] || make_directory "${1%/*}"
		mkdir "$root$1"
		own "$root$1"
		if [ -n "$1" ]; then
			: >"$root$1/.by-berth"
			own "$root$1/.by-berth"
		fi
	fi
}

# empty reports whether a directory holds nothing but the mark.
empty() (
	set +f
	for entry in "$1"/* "$1"/.[!.]* "$1"/..?*; do
		if [ "$entry" != "$1/.by-berth" ] && { [ -e "$entry" ] || [ -L "$entry" ]; }; then
			exit 1
		fi
	done
)

# tidy undoes make_directory, as far as the directories are empty.
tidy() {
	directory=$1
	while [ -f "$root$directory/.by-berth" ] && straight "$directory/.by-berth" && empty "$root$directory"; do
		rm "$root$directory/.by-berth"
		rmdir "$root$directory"
		directory=${directory%/*}
	done
}

# write copies a file to its place, at once or not at all, and not through a link that is there.
write() {
	[ ! -d "$root$2" ] || fail "$2 is a directory"
	rm -f "$root$2.new"
	cp "$1" "$root$2.new"
	chmod 0644 "$root$2.new"
	own "$root$2.new"
	mv -f "$root$2.new" "$root$2"
}

# ours reports whether a file is as this script installed it.
ours() {
	marked=''
	if [ -f "$root$1.by-berth" ]; then
		read -r marked <"$root$1.by-berth" || true
	fi
	[ -n "$marked" ] && [ "$(checksum "$root$1")" = "$marked" ]
}

unchanged() {
	same "$1" "$root$2" || return 1
	chmod 0644 "$root$2"
	say "unchanged  $2"
}

# put installs a file. One that somebody else put there is kept beside it.
put() {
	if unchanged "$1" "$2"; then
		return
	fi
	make_directory "${2%/*}"
	if [ -e "$root$2" ] && ! ours "$2"; then
		rm -f "$root$2.before-berth"
		cp -pP "$root$2" "$root$2.before-berth"
		say "kept       $2.before-berth"
	fi
	write "$1" "$2"
	checksum "$1" >"$work/mark"
	write "$work/mark" "$2.by-berth"
	say "installed  $2"
}

# take undoes put, if the file still has the checksum, or is as it was installed when there is none. It reports whether
# there is nothing more of this script's.
take() {
	if ! straight "$1"; then
		if [ -e "$root$1" ]; then
			leave "$1" "behind a symbolic link: run this without sudo, too"
		fi
		return 1
	fi
	if [ ! -e "$root$1" ]; then
		rm -f "$root$1.by-berth"
		return
	fi
	if [ "$(checksum "$root$1")" != "$2" ] && { [ -n "$hash" ] || ! ours "$1"; }; then
		leave "$1" "not what this script installed"
		return 1
	fi
	remove "$1"
	rm -f "$root$1.by-berth"
	if [ -e "$root$1.before-berth" ]; then
		mv "$root$1.before-berth" "$root$1" || fail "can't restore $1"
		say "restored   $1"
	fi
}

remove() {
	rm "$root$1" || fail "can't remove $1"
	say "removed    $1"
	acted=true
}

leave() {
	say "left       $1 ($2)"
	acted=true
}

# --- installing

# obtain gets the certificate, or ends: without the right checksum nothing is installed.
obtain() {
	certificate=$work/ca.crt
	if [ -n "$ca" ]; then
		cat <"$ca" >"$certificate" || fail "can't read $ca"
	else
		fetch "https://$target/trust/ca.crt" "$certificate" || fail "can't fetch https://$target/trust/ca.crt"
	fi
	actual=$(checksum "$certificate") || fail "can't compute the checksum"
	if [ "$actual" != "$hash" ]; then
		fail "refused: the certificate has the checksum $actual, not $hash. Either the registry has another CA by" \
			"now, or somebody sits between it and this machine. Nothing was installed."
	fi
}

# fetch does not verify who answers: what it gets is compared with the checksum.
fetch() {
	if command -v curl >/dev/null; then
		curl -fsSk --connect-timeout 10 --max-time 60 -o "$2" "$1"
	elif command -v wget >/dev/null; then
		wget -q --no-check-certificate -O "$2" "$1"
	else
		fail "needs curl or wget, or --ca FILE"
	fi
}

install_all() {
	if $administrator; then
		install_machine
	else
		! has podman skopeo buildah || place "$settings/containers/certs.d"
	fi
	if rootless_docker; then
		place "$settings/docker/certs.d"
	fi
	$administrator || skip_machine
}

install_machine() {
	if found /etc/docker dockerd docker; then
		place /etc/docker/certs.d
	fi
	if found /etc/containers podman skopeo buildah; then
		place /etc/containers/certs.d
	fi
	if found /etc/containerd containerd; then
		place_containerd /etc/containerd/certs.d
		[ -z "$elsewhere" ] || place_containerd "$elsewhere"
	fi
	for kind in k3s rke2; do
		if found "/etc/rancher/$kind" "$kind"; then
			place "/etc/rancher/$kind/certs.d"
		fi
	done
}

# skip_machine says for what the user who runs this can't install. It is said once that something was.
skip_machine() {
	[ -n "$first" ] || return 0
	! found /etc/docker dockerd docker || skip Docker
	! found /etc/containerd containerd || skip containerd
	for kind in k3s rke2; do
		! found "/etc/rancher/$kind" "$kind" || skip "$kind"
	done
}

skip() { say "skipped    $1, which does not trust the registry yet: run this as root to install for it"; }

# place installs the certificate in the directories that are named for the registry.
place() {
	for name in $names; do
		if ! straight "$1/$name/ca.crt"; then
			say "skipped    $1/$name/ca.crt (behind a symbolic link, which root does not follow: run this without sudo, too)"
			return
		fi
		put "$certificate" "$1/$name/ca.crt"
	done
	first=${first:-$1/$target/ca.crt}
}

# place_containerd also writes the files that say which CA is for the registry. One that the administrator wrote stays.
place_containerd() {
	place "$1"
	for name in $names; do
		directory=$1/$name
		hosts_toml "$directory" "$name" >"$work/hosts.toml"
		if [ ! -e "$root$directory/hosts.toml" ] || same "$work/hosts.toml" "$root$directory/hosts.toml"; then
			put "$work/hosts.toml" "$directory/hosts.toml"
		elif ! grep -Fq "$directory/ca.crt" "$root$directory/hosts.toml"; then
			say "left       $directory/hosts.toml: add this line to the section of https://$name"
			say "             ca = \"$directory/ca.crt\""
		fi
	done
}

hosts_toml() {
	cat <<-END
		server = "https://$2"
		ca = "$1/ca.crt"
	END
}

# --- containerd's configuration

# read_containerd finds in it the table for registries, as it is written, and what config_path is there. TOML it reads as
# far as people and containerd itself write it.
read_containerd() {
	table='' table_file='' paths='' set=false mirrors=false elsewhere=''
	set +f
	set -- "$root/etc/containerd/config.toml" "$root"/etc/containerd/conf.d/*.toml
	set -f
	for file in "$@"; do
		if [ -f "$file" ] && [ -r "$file" ]; then
			inside=false
			while read -r line || [ -n "$line" ]; do
				read_setting
			done <"$file"
		fi
	done
	case :$paths: in
	*:/etc/containerd/certs.d:*) ;;
	:/*) elsewhere=${paths%%:*} ;;
	esac
}

read_setting() {
	case $line in
	\[*.registry\]* | \[*.registry\ *\]*)
		inside=true table=${line%%\]*}] table_file=${file#"$root"}
		;;
	\[*.registry.mirrors* | \[*.registry.configs.*.tls*) inside=false mirrors=true ;;
	\[*) inside=false ;;
	config_path*=*)
		if $inside; then
			line=${line#*[\"\']}
			paths=${line%%[\"\']*} set=true
		fi
		;;
	esac
}

# --- the system's own store

# find_store sets anchors to the directory of the CAs that an administrator adds.
find_store() {
	if [ -d "$root/etc/pki/ca-trust/source/anchors" ]; then # RHEL, Fedora
		anchors=/etc/pki/ca-trust/source/anchors
	elif [ -d "$root/etc/pki/trust/anchors" ]; then # SUSE
		anchors=/etc/pki/trust/anchors
	elif has update-ca-certificates; then # Debian, Alpine
		anchors=/usr/local/share/ca-certificates
	else
		return 1
	fi
	anchor=$anchors/berth-$(printf %s "$target" | tr -c 'A-Za-z0-9.-' _).crt
}

# refresh_store has the tools of the system read the directory again. What they print is of interest only when they fail.
refresh_store() {
	if [ -n "$root" ]; then
		return
	fi
	case $anchors in
	/etc/pki/ca-trust/*) set -- update-ca-trust extract ;;
	*) set -- update-ca-certificates "$@" ;;
	esac
	if ! PATH=$everywhere "$@" >"$work/log" 2>&1; then
		cat "$work/log" >&2
		fail "$1 failed"
	fi
}

# forget_anchor is refresh_store after the certificate was removed. Debian's tool does not notice that one is gone, and
# keeps it in what its hooks make, such as Java's keystore. It removes those that its configuration excludes.
forget_anchor() {
	if [ -z "$root" ] && tool=$(PATH=$everywhere && command -v update-ca-certificates) && grep -q certsconf "$tool"; then
		cat /etc/ca-certificates.conf >"$work/certificates.conf"
		printf '\n!%s\n' "${anchor##*/}" >>"$work/certificates.conf"
		refresh_store --certsconf "$work/certificates.conf"
	else
		refresh_store
	fi
}

install_system() {
	if ! unchanged "$certificate" "$anchor"; then # by its name it is this script's: nothing is kept
		make_directory "$anchors"
		write "$certificate" "$anchor"
		say "installed  $anchor"
	fi
	refresh_store
	first=${first:-$anchor}
	cat <<-END

		WARNING: every program of this machine that uses the system's store now believes this CA about any site, not only
		about $target. Whoever gets hold of the registry's CA key can pose as any of them. Programs that are
		running, such as dockerd, see the change when they are restarted.
	END
}

# --- what is left to a person

advise() {
	! $administrator || advise_containerd
	for kind in k3s rke2; do
		if $administrator && found "/etc/rancher/$kind" "$kind"; then
			advise_k3s
		fi
	done
	advise_buildx
}

advise_containerd() {
	if ! found /etc/containerd containerd || [ -n "$paths" ] ||
		grep -Eqrs "^[^#]*disabled_plugins *=.*[\"'.]cri[\"']" "$root/etc/containerd/config.toml" "$root/etc/containerd/conf.d"; then
		return
	fi
	say
	if [ -n "$table" ]; then
		advise_table
	else
		advise_no_table
	fi
	if $mirrors; then
		say
		say "Remove the sections registry.mirrors and registry.configs…tls, too: containerd refuses them beside config_path."
	fi
}

# A second table, or a second config_path in it, would keep containerd from starting.
advise_table() {
	where="add this line to the section"
	if $set; then
		where="set the config_path that is there, in the section"
	fi
	cat <<-END
		Kubernetes reads the above only if $table_file says so:
		$where

		$table

		so that it has this, and restart containerd:

		  config_path = "/etc/containerd/certs.d"
	END
}

# advise_no_table names the table as the version of the file wants it: a file without one is read as version 1.
advise_no_table() {
	config=$root/etc/containerd/config.toml plugin=io.containerd.grpc.v1.cri version=''
	if grep -Eqs '^[[:space:]]*version *= *3' "$config"; then
		plugin=io.containerd.cri.v1.images
	elif ! grep -Eqs '^[[:space:]]*version *=' "$config"; then
		if grep -Eqs '^[^#]*[=[]' "$config"; then
			plugin=cri
		else
			version=2
		fi
	fi
	say "Kubernetes reads the above only if /etc/containerd/config.toml says so. Add this, and restart containerd:"
	if [ -n "$version" ]; then
		say
		say "version = $version"
	fi
	cat <<-END

		[plugins."$plugin".registry]
		  config_path = "/etc/containerd/certs.d"
	END
}

advise_k3s() {
	cat <<-END

		For $kind, add this to /etc/rancher/$kind/registries.yaml, and restart $kind:

		mirrors:
	END
	for name in $names; do
		cat <<-END
			  "$name":
			    endpoint:
			      - "https://$name"
		END
	done
	say "configs:"
	for name in $names; do
		cat <<-END
			  "$name":
			    tls:
			      ca_file: "/etc/rancher/$kind/certs.d/$name/ca.crt"
		END
	done
}

advise_buildx() {
	cat <<-END

		A buildx builder in a container knows none of the CAs of its host. Write this to buildkitd.toml:
	END
	for name in $names; do
		cat <<-END

			[registry."$name"]
			  http = false
			  ca = ["$first"]
		END
	done
	cat <<-END

		and make a builder with it:

		docker buildx create --name berth --driver docker-container --config buildkitd.toml --bootstrap --use

		crane, docker buildx imagetools and, where the registry hands out tokens (Bearer), buildx ask the registry from
		this machine and with the CAs of its system, not with those above. For them use --system, or set
		SSL_CERT_FILE=$first
		For buildx, BUILDKIT_NO_CLIENT_TOKEN=1 leaves the tokens to the builder.
	END
}

# --- uninstalling

uninstall_all() {
	acted=false
	for place in /etc/docker/certs.d /etc/containers/certs.d /etc/containerd/certs.d /etc/rancher/k3s/certs.d \
		/etc/rancher/rke2/certs.d "$settings/containers/certs.d" "$settings/docker/certs.d" "$elsewhere"; do
		[ -n "$place" ] || continue
		for name in $names; do
			hosts_toml "$place/$name" "$name" >"$work/hosts.toml"
			if take "$place/$name/ca.crt" "$hash" && [ -e "$root$place/$name/hosts.toml" ]; then
				take "$place/$name/hosts.toml" "$(checksum "$work/hosts.toml")" || true
			fi
			tidy "$place/$name"
		done
	done
	uninstall_system
	$acted || say "nothing to remove"
}

uninstall_system() {
	if ! find_store || [ ! -e "$root$anchor" ]; then
		return
	fi
	if [ -n "$hash" ] && [ "$(checksum "$root$anchor")" != "$hash" ]; then
		leave "$anchor" "not what this script installed"
		return
	fi
	remove "$anchor"
	tidy "$anchors"
	forget_anchor
}

main() {
	parse "$@"
	look
	read_containerd
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	trap 'exit 1' HUP INT TERM
	if $uninstall; then
		uninstall_all
		return
	fi
	if $system; then
		$administrator || fail "--system is for root"
		find_store || fail "there is no update-ca-certificates or update-ca-trust: install the package ca-certificates first"
	fi
	obtain
	install_all
	! $system || install_system
	if [ -z "$first" ]; then
		$administrator || fail "found nothing of this user's to install for: run it as root to install for the machine"
		fail "found neither Docker nor containerd, Podman, Skopeo, Buildah or k3s: nothing was installed." \
			"Use --system for other programs."
	fi
	advise
}

main "$@"
