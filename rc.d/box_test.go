//go:build freebsd || linux

package rcd_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A box is one service, of a name of its own, and where its files are.
type box struct {
	*testing.T
	name   string // in rc.conf(5)
	dir    string // of the test
	root   string // stands for /; empty on FreeBSD
	script string
	rcSubr string
	socket string // the default one
	log    string
}

func newBox(t *testing.T, instance string) *box {
	t.Helper()
	bin, err := onewake()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	b := &box{T: t, dir: dir, name: "onewake" + instance, log: dir + "/log"}
	if runtime.GOOS == "freebsd" {
		if os.Getuid() != 0 {
			t.Skip("services are root's")
		}
		b.name = fmt.Sprintf("onewake_test%d%s", time.Now().UnixNano(), instance)
		b.rcSubr = "/etc/rc.subr"
		b.mkdir("/etc/rc.conf.d")
	} else {
		b.root = dir
		b.rcSubr = b.path("/etc/rc.subr")
		for _, d := range []string{"etc/rc.conf.d", "var/run", "usr/sbin", "usr/bin"} {
			b.mkdir(d)
		}
		b.write(b.rcSubr, read(t, "testdata/rc.subr"))
		for standin, path := range map[string]string{"daemon": "usr/sbin/daemon", "chroot": "usr/sbin/chroot", "limits": "usr/bin/limits"} {
			b.write(b.path(path), read(t, "testdata/"+standin))
		}
		if err := syscall.Mkfifo(b.path("again"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b.socket = b.path(fmt.Sprintf("/var/run/%[1]s/%[1]s.sock", b.name))
	text := strings.ReplaceAll(read(t, "onewake"), "%%PREFIX%%/sbin/onewake", bin)
	for _, p := range []string{"/etc/rc.subr", "/var/run", "/usr/sbin/daemon", "/usr/sbin/chroot", "/usr/bin/limits"} {
		text = regexp.MustCompile(`([\s"=.:}])`+p).ReplaceAllString(text, "${1}"+b.root+p)
	}
	b.write(b.path("onewake"), text)
	b.link(b.name)
	t.Cleanup(b.destroy)
	return b
}

// path is where a file is: below the root, or in the test's directory on FreeBSD,
// where an absolute one stays.
func (b *box) path(p string) string {
	if b.root == "" && strings.HasPrefix(p, "/") {
		return p
	}
	return filepath.Join(b.dir, p)
}

func (b *box) mkdir(p string) {
	b.Helper()
	if err := os.MkdirAll(b.path(p), 0o755); err != nil {
		b.Fatal(err)
	}
}

func (b *box) write(path, s string) {
	b.Helper()
	if err := os.WriteFile(path, []byte(s), 0o755); err != nil {
		b.Fatal(err)
	}
}

// link makes an instance of the script, and the box runs it from then on.
func (b *box) link(name string) {
	b.Helper()
	b.script = b.path(name)
	if name == "onewake" {
		return
	}
	if err := os.Symlink("onewake", b.script); err != nil {
		b.Fatal(err)
	}
}

// conf is what rc.conf(5) has of the service, which is on unless the first setting
// is "off": without NAME_ before each, and with ROOT for the test's directory.
func (b *box) conf(settings ...string) {
	b.Helper()
	me, group := "nobody", "nobody"
	if b.root != "" { // as everybody may
		u, err := user.Current()
		if err != nil {
			b.Fatal(err)
		}
		me, group = u.Username, u.Gid
	}
	lines := []string{"enable=YES", "user=" + me, "group=" + group, "logfile=" + b.log}
	for _, s := range settings {
		if s == "off" {
			s = "enable=NO"
		}
		lines = append(lines, strings.ReplaceAll(s, "ROOT", b.dir))
	}
	b.write(b.path("/etc/rc.conf.d/"+b.name), b.name+"_"+strings.Join(lines, "\n"+b.name+"_")+"\n")
}

// run runs a script as service(8) does.
func (b *box) run(args ...string) (output string, status int) {
	b.Helper()
	cmd := exec.Command("/bin/sh", args...)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=/", "LANG=C.UTF-8", "PATH=" + b.root + "/usr/sbin:" + b.root + "/usr/bin:/sbin:/bin:/usr/sbin:/usr/bin", "ROOT=" + b.root}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 30 * time.Second // a daemon that has kept stdout open
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		b.Fatalf("%q: %v\n%s", args, err, &out)
	}
	b.Logf("%q: status %d\n%s", args, cmd.ProcessState.ExitCode(), &out)
	return out.String(), cmd.ProcessState.ExitCode()
}

// must runs a command of the service and expects it to succeed.
func (b *box) must(command string) string {
	b.Helper()
	out, status := b.run(b.script, command)
	if status != 0 {
		b.Fatalf("%s: status %d\n%s\nlog:\n%s", command, status, out, b.logText())
	}
	return out
}

// refused expects a command to fail with all of these in its output.
func (b *box) refused(command string, wants ...string) {
	b.Helper()
	out, status := b.run(b.script, command)
	if status == 0 {
		b.Errorf("%s: status 0\n%s", command, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			b.Errorf("%s: no %q in\n%s", command, want, out)
		}
	}
}

// logged waits for the log to have all of these.
func (b *box) logged(wants ...string) {
	b.Helper()
	for _, want := range wants {
		b.eventually("in the log: "+want, func() bool { return strings.Contains(b.logText(), want) })
	}
}

func (b *box) logText() string {
	s, _ := os.ReadFile(b.log)
	return string(s)
}

// pid is what a pidfile of the service has: ".pid" or ".daemon.pid".
func (b *box) pid(suffix string) int {
	s, _ := os.ReadFile(b.path("/var/run/" + b.name + suffix))
	n, _ := strconv.Atoi(strings.TrimSpace(string(s)))
	return n
}

// running is the process of a pidfile, if there is one.
func (b *box) running(suffix string) int {
	if pid := b.pid(suffix); pid > 0 && alive(pid) {
		return pid
	}
	return 0
}

// alive also knows a zombie, which nobody of ours has to wait for.
func alive(pid int) bool {
	if runtime.GOOS == "linux" {
		s, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err == nil && !bytes.Contains(s, []byte(") Z "))
	}
	return syscall.Kill(pid, 0) == nil
}

func (b *box) kill(pid int) {
	b.Helper()
	if pid <= 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		b.Fatalf("process %d cannot be killed", pid)
	}
}

// again ends the pause of the stand-in for daemon(8); a real one waits for a second.
func (b *box) again() {
	b.Helper()
	if b.root == "" {
		return
	}
	if err := os.WriteFile(b.path("again"), []byte("\n"), 0); err != nil {
		b.Fatal(err)
	}
}

func (b *box) listens() bool {
	c, err := net.Dial("unix", b.socket)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// eventually waits for what another process is about to do.
func (b *box) eventually(what string, cond func() bool) {
	b.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("still not: %s; log:\n%s", what, b.logText())
		}
	}
}

// destroy ends what a failed test has left, and removes the files.
func (b *box) destroy() {
	for _, suffix := range []string{".daemon.pid", ".pid"} {
		if pid := b.running(suffix); pid != 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	for _, f := range []string{"/etc/rc.conf.d/" + b.name, "/var/run/" + b.name, "/var/run/" + b.name + ".pid", "/var/run/" + b.name + ".daemon.pid"} {
		os.RemoveAll(b.path(f))
	}
	os.RemoveAll(b.dir)
}

func read(t testing.TB, path string) string {
	t.Helper()
	s, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}
