package clients

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"berth/conformance/server"
)

// A machine has its own network, processes and mounts. Its /etc and its /var/lib are copies of the real ones that can be
// written to, and its /run is empty; what runs on it keeps its files there, in memory.
type machine struct {
	t       *testing.T
	init    *exec.Cmd
	daemons []*server.Server
	env     []string
}

// setUp makes a machine of new namespaces. Its last command is what the machine lives as long as.
const setUp = `
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -p /run/home /run/tmp
for directory in /etc /var/lib; do
	mkdir -p /run$directory/upper /run$directory/work
	mount -t overlay -o lowerdir=$directory,upperdir=/run$directory/upper,workdir=/run$directory/work overlay $directory
done
ip link set lo up
echo ready
exec sleep infinity`

const (
	// commandTimeout bounds what is done on a machine, and startTimeout the start of a daemon, while another test
	// takes the processors.
	commandTimeout = 2 * time.Minute
	startTimeout   = time.Minute
)

// newMachine starts a machine, which ends with the test or with the process that runs it.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, init: exec.Command("sh", "-ec", setUp)}
	m.env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=/run/home", "TMPDIR=/run/tmp"}
	m.init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS,
		Pdeathsig:  syscall.SIGKILL,
	}
	m.init.Env = m.env
	var complaint strings.Builder
	m.init.Stderr = &complaint
	out, err := m.init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.init.Start(); err != nil {
		unavailable(t, "this test makes namespaces: "+err.Error())
	}
	t.Cleanup(m.end)
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		_ = m.init.Wait() // what it printed says more
		unavailable(t, "this test mounts file systems in namespaces: "+complaint.String())
	}
	return m
}

// end kills the machine's first process, with which the kernel ends all others.
func (m *machine) end() {
	_ = m.init.Process.Kill()
	_ = m.init.Wait() // it was killed
	for _, d := range m.daemons {
		d.Kill()
		if m.t.Failed() {
			m.t.Logf("%s printed:\n%s", d.Args[len(d.Args)-1], d.Printed())
		}
	}
}

// connect joins two machines by a cable, whose ends get these addresses.
func connect(a *machine, addressA string, b *machine, addressB string) {
	a.t.Helper()
	cable := exec.CommandContext(a.t.Context(), "nsenter", "--target", a.pid(), "--net",
		"ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", b.pid())
	if out, err := cable.CombinedOutput(); err != nil {
		unavailable(a.t, fmt.Sprintf("this test connects namespaces: %v: %s", err, out))
	}
	a.do("ip address add " + addressA + "/24 dev eth0 && ip link set eth0 up")
	b.do("ip address add " + addressB + "/24 dev eth0 && ip link set eth0 up")
}

func (m *machine) pid() string { return strconv.Itoa(m.init.Process.Pid) }

// enter returns the arguments with which nsenter runs a shell command on the machine.
func (m *machine) enter(command string) []string {
	return []string{"--target", m.pid(), "--mount", "--net", "--pid", "--ipc", "--uts", "sh", "-c", command}
}

// try runs a shell command on the machine and returns what it printed.
func (m *machine) try(command string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout) // also while the test cleans up
	defer cancel()
	c := exec.CommandContext(ctx, "nsenter", m.enter(command)...)
	c.Env = m.env
	c.WaitDelay = time.Second // what it started goes on until the machine ends
	out, err := c.CombinedOutput()
	return string(out), err
}

// do is try for what has to succeed.
func (m *machine) do(command string) string {
	m.t.Helper()
	out, err := m.try(command)
	if err != nil {
		m.t.Fatalf("%s: %v; it printed:\n%s", command, err, out)
	}
	return out
}

// during returns the machine as a subtest uses it, with more environment. It starts no daemons there.
func (m *machine) during(t *testing.T, env ...string) *machine {
	return &machine{t: t, init: m.init, env: append(slices.Clip(m.env), env...)}
}

// start runs a daemon on the machine until its end, and waits until the command ready succeeds.
func (m *machine) start(daemon, ready string) {
	m.t.Helper()
	d, err := server.Launch(server.Config{Program: "nsenter", Args: m.enter("exec " + daemon), Dir: m.t.TempDir(), Env: m.env})
	if err != nil {
		m.t.Fatal(err)
	}
	m.daemons = append(m.daemons, d)
	m.await(ready, d.Running)
}

// await repeats a command until it succeeds, as long as it may still come to that.
func (m *machine) await(command string, possible func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		out, err := m.try(command)
		if err == nil {
			return
		}
		if !possible() || time.Now().After(deadline) {
			m.t.Fatalf("%s: %v; it printed:\n%s", command, err, out)
		}
	}
}

// write makes a file on the machine, and its directory.
func (m *machine) write(path, content string) {
	m.t.Helper()
	c := exec.CommandContext(m.t.Context(), "nsenter", m.enter("mkdir -p \"$(dirname "+path+")\" && cat >"+path)...)
	c.Env, c.Stdin = m.env, strings.NewReader(content)
	if out, err := c.CombinedOutput(); err != nil {
		m.t.Fatalf("write %s: %v: %s", path, err, out)
	}
}
