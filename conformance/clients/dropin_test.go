package clients

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

// A recipe is a way in which people start the image of registry:2, taken over with nothing but the name of the image changed.
type recipe struct {
	name string
	// run is pasted into a shell in a directory with certs/, auth/ and config.yml.
	run string
	// address is what clients call the registry.
	address string
	// user logs in with password; nobody does when it is empty.
	user, password string
	// then is pasted when the registry serves.
	then string
}

const (
	loginUser     = "testuser"
	loginPassword = "testpassword"
	// proxyAddress is where nginx ends TLS.
	proxyAddress = hostAddress + ":8443"
)

func recipes() []recipe {
	return []recipe{
		{
			name: "certificate",
			run: `docker run -d \
  --restart=always \
  --name registry \
  -v "$(pwd)"/certs:/certs \
  -v "$(pwd)"/first:/var/lib/registry \
  -e REGISTRY_HTTP_ADDR=0.0.0.0:443 \
  -e REGISTRY_HTTP_TLS_CERTIFICATE=/certs/domain.crt \
  -e REGISTRY_HTTP_TLS_KEY=/certs/domain.key \
  -p 443:443 \
  registry:2`,
			address: hostAddress,
			user:    "admin", // Berth's own: registry:2 lets everybody in
		},
		{
			name: "htpasswd",
			run: `docker run -d \
  -p 443:5000 \
  --restart=always \
  --name registry \
  -v "$(pwd)"/auth:/auth \
  -v "$(pwd)"/data:/var/lib/registry \
  -e "REGISTRY_AUTH=htpasswd" \
  -e "REGISTRY_AUTH_HTPASSWD_REALM=Registry Realm" \
  -e REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd \
  -v "$(pwd)"/certs:/certs \
  -e REGISTRY_HTTP_TLS_CERTIFICATE=/certs/domain.crt \
  -e REGISTRY_HTTP_TLS_KEY=/certs/domain.key \
  registry:2`,
			address: hostAddress, user: loginUser, password: loginPassword,
		},
		{
			name: "configuration file",
			run: `docker run -d -p 5000:5000 --restart=always --name registry \
  -v "$(pwd)"/config.yml:/etc/docker/registry/config.yml \
  -v "$(pwd)"/auth:/auth -v "$(pwd)"/certs:/certs \
  registry:2`,
			address: host, user: loginUser, password: loginPassword,
		},
		{
			name: "configuration file elsewhere",
			run: `sed 's,/var/lib/registry,/data,' config.yml >other.yml
docker run -d -p 5000:5000 --restart=always --name registry \
  -v "$(pwd)"/other.yml:/other.yml -v "$(pwd)"/other-data:/data \
  -v "$(pwd)"/auth:/auth -v "$(pwd)"/certs:/certs \
  registry:2 serve /other.yml`,
			address: host, user: loginUser, password: loginPassword,
		},
		{
			name: "configuration file of the image",
			run: `docker run -d \
  -p 443:5000 \
  --restart=always \
  --name registry \
  -v "$(pwd)"/auth:/auth \
  -v "$(pwd)"/certs:/certs \
  -e REGISTRY_AUTH=htpasswd \
  -e REGISTRY_AUTH_HTPASSWD_PATH=/auth/htpasswd \
  -e REGISTRY_HTTP_TLS_CERTIFICATE=/certs/domain.crt \
  -e REGISTRY_HTTP_TLS_KEY=/certs/domain.key \
  registry:2 serve /etc/docker/registry/config.yml`,
			address: hostAddress, user: loginUser, password: loginPassword,
			then: "docker exec registry registry garbage-collect --dry-run /etc/docker/registry/config.yml",
		},
		{
			name: "behind nginx",
			run: `docker run -d -p 127.0.0.1:5000:5000 --restart=always --name registry \
  -v "$(pwd)"/proxied:/var/lib/registry \
  -e REGISTRY_HTTP_TLS_MODE=off \
  -e REGISTRY_AUTH=none \
  registry:2`,
			address: proxyAddress, user: loginUser, password: loginPassword,
		},
	}
}

// registry2Config is the configuration in the image of registry:2, with users and a certificate.
const registry2Config = `version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: /var/lib/registry
http:
  addr: :5000
  headers:
    X-Content-Type-Options: [nosniff]
  tls:
    certificate: /certs/domain.crt
    key: /certs/domain.key
auth:
  htpasswd:
    realm: basic-realm
    path: /auth/htpasswd
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
`

// nginxHead is what is around a server's configuration where nginx is not installed as a service.
const nginxHead = `daemon off;
user root;
pid /run/recipes/nginx.pid;
error_log stderr;
events {}
http {
access_log off;
client_body_temp_path /run/recipes/body;
proxy_temp_path /run/recipes/proxy;
fastcgi_temp_path /run/recipes/fastcgi;
uwsgi_temp_path /run/recipes/uwsgi;
scgi_temp_path /run/recipes/scgi;
`

const (
	nginx      = "nginx -c /run/recipes/nginx.conf"
	nginxReady = "curl --silent --insecure https://127.0.0.1:8443/"
)

// nginxConfig is deploy/nginx.conf with the paths, the port and the registry of the test.
func nginxConfig(t *testing.T) string {
	t.Helper()
	content, err := os.ReadFile("../../deploy/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	text := string(content)
	for _, change := range [][2]string{
		{"/etc/nginx/registry/", "/run/recipes/"}, {"listen 443 ssl;", "listen 8443 ssl;"}, {"listen [::]:443 ssl;", ""}, {"server_name registry.lan;", ""},
	} {
		if !strings.Contains(text, change[0]) {
			t.Fatalf("deploy/nginx.conf has no %s", change[0])
		}
		text = strings.ReplaceAll(text, change[0], change[1])
	}
	return nginxHead + text + "}\n"
}

// writeRecipeFiles makes what the recipes mount, and returns the certificate. As they often are, key and htpasswd are for root.
func writeRecipeFiles(m *machine) (certificate string) {
	m.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(loginPassword), bcrypt.MinCost)
	if err != nil {
		m.t.Fatal(err)
	}
	m.write("/run/recipes/auth/htpasswd", fmt.Sprintf("%s:%s\n", loginUser, hash))
	m.write("/run/recipes/config.yml", registry2Config)
	m.write("/run/recipes/nginx.conf", nginxConfig(m.t))
	m.do("mkdir /run/recipes/certs && cd /run/recipes/certs && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 " +
		"-subj /CN=" + hostAddress + " -addext subjectAltName=IP:" + hostAddress + " -keyout domain.key -out domain.crt && " +
		"chmod 600 domain.key ../auth/htpasswd")
	return m.do("cat /run/recipes/certs/domain.crt")
}

// dropIn follows a recipe on dockerHost and has the node push and pull.
func (r recipe) dropIn(dockerHost, node *machine) {
	dockerHost.do("cd /run/recipes && " + strings.ReplaceAll(r.run, "registry:2", "berth"))
	defer dockerHost.do("docker rm --force --volumes registry")
	running := func() bool { return dockerHost.do("docker inspect --format {{.State.Running}} registry") == "true\n" }
	dockerHost.await("docker exec registry registry healthcheck --ready", running)
	if r.password == "" {
		r.password = strings.TrimSpace(dockerHost.do("cat /run/recipes/first/initial-admin-password"))
	}
	user := node.during(node.t, "NAME="+r.address+"/dropin:v1", "PASSWORD="+r.password)
	user.do("printf %s \"$PASSWORD\" | docker login --username " + r.user + " --password-stdin " + r.address)
	pushAndPull(user)
	if r.then != "" {
		dockerHost.do(r.then)
	}
	dockerHost.do("docker restart registry")
	dockerHost.await("docker exec registry registry healthcheck --ready", running)
	user.do("docker pull $NAME")
}

// helloTar is the file system of an image on the node.
const helloTar = "/run/hello.tar"

// pushAndPull makes the image $NAME with docker, pushes it, forgets it and pulls the same one.
func pushAndPull(m *machine) {
	m.t.Helper()
	const identify = "docker image inspect --format {{.Id}} $NAME"
	m.do("docker import " + helloTar + " $NAME")
	pushed := m.do(identify)
	m.do("docker push $NAME")
	m.do("docker image rm $NAME")
	m.do("docker pull $NAME")
	if pulled := m.do(identify); pulled != pushed {
		m.t.Errorf("pushed %s and pulled %s", pushed, pulled)
	}
}

// startDocker starts a dockerd that can run containers, with control groups of its own.
func startDocker(m *machine) {
	m.t.Helper()
	group := fmt.Sprintf("berth-%d-%s", os.Getpid(), strings.ReplaceAll(m.t.Name(), "/", "-"))
	m.start(dockerd+"--exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /"+group, "docker info")
	m.t.Cleanup(func() { // control groups are in no namespace
		m.do("docker ps --all --quiet | xargs --no-run-if-empty docker rm --force; " +
			"find /sys/fs/cgroup -depth -type d -name " + group + " -exec rmdir {} +")
	})
}
