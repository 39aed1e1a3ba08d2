package clients

import (
	"os"
	"path/filepath"
	"strings"
)

// standIns makes the images that deploy/compose-ha.yml names and that can't be pulled here: of Debian's programs, each with an
// entrypoint that does what that of the real one does with the variables that the file sets.
const standIns = `
mkdir -p /run/stand-in/bin /run/stand-in/tmp /run/stand-in/etc /run/stand-in/run /run/stand-in/data /run/stand-in/var/run && cd /run/stand-in && chmod 1777 tmp var/run
bin=$(dirname $(ls /usr/lib/postgresql/*/bin/postgres | tail -n 1)); version=$(basename $(dirname $bin))
cp $(command -v busybox) bin/busybox
for name in sh cat mkdir chown chmod; do ln -s busybox bin/$name; done
programs="$bin/postgres $bin/initdb $bin/pg_isready /usr/bin/setpriv $(command -v haproxy)"
for f in $programs /usr/lib/postgresql/$version/lib/plpgsql.so /usr/lib/postgresql/$version/lib/dict_snowball.so; do
	ldd $f | grep -o '/[^ ]*' || true
	echo $f
done | sort -u | while read f; do cp --parents --dereference $f .; done
cp --recursive --parents /usr/share/postgresql/$version /usr/share/zoneinfo/UTC /usr/share/zoneinfo/Etc .
for f in $programs; do ln -s $f bin/$(basename $f); done
cp "$GATEWAY" bin/versitygw
printf 'root:x:0:0::/:/bin/sh\npostgres:x:999:999::/:/bin/sh\n' >etc/passwd
printf 'root:x:0:\npostgres:x:999:\n' >etc/group
cat >bin/start-postgres <<'END'
#!/bin/sh
set -e
data=/var/lib/postgresql/data
mkdir -p $data && chown postgres:postgres $data && chmod 700 $data
as() { /usr/bin/setpriv --reuid 999 --regid 999 --clear-groups "$@"; }
if [ ! -e $data/PG_VERSION ]; then
	cat "$POSTGRES_PASSWORD_FILE" >/tmp/password && chown postgres /tmp/password
	as initdb --pgdata $data --username "$POSTGRES_USER" --pwfile /tmp/password --auth scram-sha-256 --encoding UTF8 --locale C >/dev/null
	echo "CREATE DATABASE $POSTGRES_DB" | as postgres --single -D $data postgres >/dev/null
	echo "host all all all scram-sha-256" >>$data/pg_hba.conf
fi
exec /usr/bin/setpriv --reuid 999 --regid 999 --clear-groups postgres -D $data -k /tmp -c "listen_addresses=*"
END
chmod +x bin/start-postgres
tar -cf - . >/run/stand-in.tar
docker import --change 'ENV PATH=/bin' --change 'ENTRYPOINT ["/bin/start-postgres"]' --change 'ENV PGHOST=/tmp' /run/stand-in.tar postgres:17
docker import --change 'ENV PATH=/bin' --change 'ENTRYPOINT ["/bin/haproxy"]' --change 'CMD ["-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]' /run/stand-in.tar haproxy:3.0
docker import --change 'ENV PATH=/bin' --change 'ENTRYPOINT ["/bin/versitygw"]' /run/stand-in.tar versity/versitygw
rm -r /run/stand-in /run/stand-in.tar`

// composeHA starts deploy/compose-ha.yml as its head says, and has a node push and pull while parts of it are away.
func composeHA(dockerHost, node *machine) {
	t := dockerHost.t
	var start []string
	for _, name := range []string{"compose-ha.yml", "haproxy.cfg"} {
		content, err := os.ReadFile(filepath.Join("../../deploy", name))
		if err != nil {
			t.Fatal(err)
		}
		dockerHost.write("/run/ha/"+name, string(content))
		if name == "compose-ha.yml" {
			for line := range strings.Lines(string(content)) {
				if command, ok := strings.CutPrefix(line, "#   "); ok {
					start = append(start, strings.Replace(command, "registry.lan", hostAddress, 1))
				}
			}
		}
	}
	dockerHost.during(t, "GATEWAY="+tool(t, "versitygw", "../../tools/s3", "github.com/versity/versitygw/cmd/versitygw")).build(standIns)
	compose := "cd /run/ha && docker compose --file compose-ha.yml "
	defer dockerHost.do(compose + "down --volumes")
	defer func() {
		if t.Failed() {
			out, _ := dockerHost.try(compose + "logs --no-color --tail 40")
			t.Logf("the containers printed:\n%s", out)
		}
	}()
	printed := dockerHost.do("cd /run/ha && " + strings.Join(start[:3], ""))
	dockerHost.await("curl --silent --fail --insecure https://127.0.0.1:5000/health", func() bool { return true })
	if log := dockerHost.do("cd /run/ha && " + start[3]); !strings.Contains(log, "trusts this registry") {
		t.Errorf("%s\n%s", printed, log)
	}
	dockerHost.await("test $(docker ps --filter health=healthy --quiet | wc -l) -eq 3", func() bool { return true })
	node.do(lastLine(dockerHost.do("docker exec ha-registry1-1 registry cert show --address " + host + " 2>/dev/null")))
	user := node.during(t, "NAME="+host+"/ha:v1", "PASSWORD="+dockerHost.do("cat /run/ha/secrets/admin_password"))
	user.do("printf %s \"$PASSWORD\" | docker login --username admin --password-stdin " + host)
	pushAndPull(user)
	dockerHost.do(compose + "kill registry1")
	pushAndPull(user.during(t, "NAME="+host+"/ha:v2"))
	dockerHost.do(compose + "start registry1 && " + compose + "kill registry2")
	dockerHost.await("curl --silent --fail --insecure https://127.0.0.1:5000/health", func() bool { return true })
	user.do("docker pull " + host + "/ha:v2")
	dockerHost.do(compose + "stop postgres")
	if out, err := user.try("docker pull " + host + "/ha:v1"); err == nil {
		t.Errorf("without a database it pulls:\n%s", out)
	}
	dockerHost.do(compose + "start postgres registry2")
	dockerHost.await("curl --silent --fail --insecure https://127.0.0.1:5000/health", func() bool { return true })
	pushAndPull(user.during(t, "NAME="+host+"/ha:v3"))
	dockerHost.do(compose + "logs >/run/ha/logs 2>&1 && test -s /run/ha/logs")
	for _, secret := range []string{"admin_password", "postgres_password", "s3_access_key", "s3_secret_key"} {
		if out := dockerHost.do("grep --fixed-strings --file=/run/ha/secrets/" + secret + " /run/ha/logs || test $? -eq 1"); out != "" {
			t.Errorf("%s is in the logs:\n%s", secret, out)
		}
	}
}
