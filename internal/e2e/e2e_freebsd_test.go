package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests check what only FreeBSD has, besides capability mode: its tools,
// mounts, jails and rc.subr.

// Monitor and command are not confined, and neither is the core with -sandbox
// off.
func TestUnconfined(t *testing.T) {
	t.Parallel()
	s := shell(t, `procstat -s $$`)
	if got := s.await("start")["sandbox"]; got != "capability mode" {
		t.Errorf("start record: sandbox %q", got)
	}
	if !Confined(t, s.core) || Confined(t, s.pid) {
		t.Error("the core must be in capability mode, and the monitor must not")
	}
	a := s.get("/")
	a.wantStatus(t, 200)
	t.Logf("the command sees:\n%s", a.body)
	if strings.Contains(a.body, " C ") {
		t.Error("the command is in capability mode")
	}
	s.stop()

	s = start(t, "-sandbox", "off")
	if Confined(t, s.core) {
		t.Error("the core is in capability mode under -sandbox off")
	}
	s.stop()
}

// A command ignores and blocks no signals, whatever onewake was started with.
func TestCommandSignals(t *testing.T) {
	t.Parallel()
	l := careless(t)
	l.args = sh(`exec procstat -i $$`)
	// procstat shows its own signals after exec.
	s := l.start(t)
	a := s.get("/")
	a.wantStatus(t, 200)
	t.Logf("the command sees:\n%s", a.body)
	for line := range strings.Lines(a.body) {
		// PID COMM SIG FLAGS
		f := strings.Fields(line)
		if len(f) == 4 && f[0] != "PID" && strings.Contains(f[3], "I") {
			switch f[2] {
			case "CHLD", "URG", "IO", "WINCH", "INFO", "CONT", "LIBRT", "TRAP": // by default
			default:
				t.Errorf("ignored: %s", line)
			}
		}
	}
	s.stop()
}

// SIGINFO, as Ctrl-T sends it.
func TestSignalInfo(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.get("/").wantStatus(t, 200)
	eventually(t, "the counters of the core", func() bool {
		n := len(s.find("status"))
		s.signal(syscall.SIGINFO)
		return s.awaitN(n+1, "status")["served"] == "1"
	})
	s.stop()
}

// A web server in a jail can use the socket through a nullfs mount, even a
// read-only one, and cannot remove it.
func TestNullfs(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts")
	cred := nobody(t)
	dir, mount := newDir(t, cred), newDir(t, nil)
	if out, err := exec.Command("/sbin/mount", "-t", "nullfs", "-o", "ro", dir, mount).CombinedOutput(); err != nil {
		t.Skipf("no nullfs here (in a jail?): %v, %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("/sbin/umount", "-f", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
	s := launch{cred: cred, dir: dir, args: []string{"-socket-mode", "0666", "--", "/bin/echo", "hello"}}.start(t)
	s.get("/").want(t, 200, "hello\n")
	through := mount + "/s"
	web := &syscall.Credential{Uid: uidOther, Gid: uidOther}
	got := as(t, web, "connect", through)
	t.Logf("through a read-only mount: %s", got)
	if got != "in 200\n" {
		t.Error("the socket cannot be reached")
	}
	if err := os.Remove(through); !errors.Is(err, unix.EROFS) {
		t.Errorf("removing it there: %v", err)
	}
	s.stop()
}

// In a jail without network the service works over its Unix socket, and its
// command has no network.
func TestJailWithoutNetwork(t *testing.T) {
	t.Parallel()
	needRoot(t, "it makes a jail")
	name := fmt.Sprintf("owtest%d", os.Getpid())
	if out, err := exec.Command("/usr/sbin/jail", "-c", "name="+name, "path=/", "ip4=disable", "ip6=disable", "persist").CombinedOutput(); err != nil {
		t.Skipf("no jail can be made here: %v, %s", err, out)
	}
	t.Cleanup(func() { exec.Command("/usr/sbin/jail", "-r", name).Run() })
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	probe := `if nc -z -w 1 127.0.0.1 ` + port + ` >/dev/null 2>&1; then echo network; else echo none; fi`
	outside := shell(t, probe)
	outside.get("/").want(t, 200, "network\n")
	outside.stop()
	s := launch{before: []string{"/usr/sbin/jexec", name}, args: sh(probe)}.start(t)
	a := s.get("/")
	t.Logf("in the jail: %s; jails: %s", a.body, output(t, "/usr/sbin/jls", "-j", name))
	a.want(t, 200, "none\n")
	if !Confined(t, s.core) {
		t.Error("the core is not in capability mode")
	}
	s.stop()
}
