//go:build linux

package rcd_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A box is a directory that stands for / of one FreeBSD.
type box struct {
	*testing.T
	root, release, script string
	env                   []string
}

// both runs a test on either release, at once.
func both(t *testing.T, test func(*box)) {
	t.Parallel()
	for _, release := range []string{"13", "15"} {
		t.Run(release, func(t *testing.T) {
			t.Parallel()
			test(newBox(t, release))
		})
	}
}

func newBox(t *testing.T, release string) *box {
	t.Helper()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("the stand-ins need Linux's /proc")
	}
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	b := &box{T: t, root: dir, release: release, script: "onewake"}
	t.Cleanup(b.destroy)
	for _, d := range []string{"etc/rc.conf.d", "var/run", "var/log", "usr/sbin", "usr/bin", "bin", "sbin", "usr/local/sbin", "usr/local/etc/rc.d"} {
		if err := os.MkdirAll(b.path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{
		"usr/sbin/daemon", "usr/sbin/chroot", "usr/sbin/setfib", "usr/sbin/jail", "usr/sbin/jls", "usr/sbin/service",
		"usr/bin/limits", "usr/bin/protect", "usr/bin/id", "usr/bin/install", "usr/bin/prepend", "bin/ps", "bin/pwait",
		"sbin/sysctl", "bin/kenv", "usr/local/sbin/onewake", "usr/local/sbin/onewake2",
	} {
		os.Symlink(self(), b.path(p))
	}
	for _, p := range []string{"nice", "env", "true"} {
		real, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		os.Symlink(real, b.path("usr/bin/"+p))
	}
	if real := os.Getenv("RCSUBR_" + release); real != "" {
		s := read(t, real)
		for _, p := range []string{"/etc/", "/etc ", "/usr/sbin/", "/usr/bin/", "/bin/ps", "/sbin/sysctl"} {
			s = regexp.MustCompile(`([\s"=(.])`+p).ReplaceAllString(s, "${1}"+dir+p)
		}
		// dash has the system's, not FreeBSD's.
		s = strings.ReplaceAll(s, "logger ", ": ")
		b.write("etc/rc.subr", s)
		b.write("etc/defaults", "")
	} else {
		b.write("etc/rc.subr", read(t, "testdata/rc.subr"))
		if release == "15" {
			b.write("etc/rc.subr", read(t, "testdata/rc.subr")+read(t, "testdata/rc.subr.15"))
		}
	}
	b.write("usr/local/etc/rc.d/onewake", b.relocate(read(t, "onewake")))
	os.Chmod(b.path("usr/local/etc/rc.d/onewake"), 0o755)
	return b
}

// relocate does what installing does, and puts / elsewhere.
func (b *box) relocate(s string) string {
	s = strings.ReplaceAll(s, "%%PREFIX%%", b.path("usr/local"))
	for _, p := range []string{"/etc/rc.subr", "/var/run", "/usr/sbin/daemon", "/usr/sbin/chroot", "/usr/bin/"} {
		n := strings.Count(s, p)
		s = regexp.MustCompile(`([\s"=.-])`+p).ReplaceAllString(s, "${1}"+b.root+p)
		if n == 0 {
			b.Fatalf("the script does not mention %s", p)
		}
	}
	return s
}

// destroy ends what the test has left running.
func (b *box) destroy() {
	if b.Failed() {
		log, _ := os.ReadFile(b.path("var/log/syslog"))
		b.Logf("log:\n%s", log[:min(len(log), 1000)])
	}
	for _, tool := range []string{"supervisor", "run"} {
		for _, c := range b.calls(tool) {
			if exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", c.Pid)); exe == self() {
				syscall.Kill(c.Pid, syscall.SIGKILL)
			}
		}
	}
	os.RemoveAll(b.root)
}

func (b *box) path(p string) string { return filepath.Join(b.root, p) }

func read(t testing.TB, path string) string {
	t.Helper()
	s, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(s)
}

func (b *box) write(path, s string) {
	b.Helper()
	if err := os.WriteFile(b.path(path), []byte(s), 0o644); err != nil {
		b.Fatal(err)
	}
}

// conf is the whole rc.conf; ROOT in it stands for the box's directory.
func (b *box) conf(lines ...string) {
	b.Helper()
	b.write("etc/rc.conf", strings.ReplaceAll(strings.Join(lines, "\n"), "ROOT", b.root)+"\n")
}

func (b *box) behave(s string) { b.Helper(); b.write("behave", strings.ReplaceAll(s, ", ", "\n")+"\n") }

// command runs dash in the environment that service(8) gives a script.
func (b *box) command(args ...string) (output string, status int) {
	b.Helper()
	shell := "dash"
	if _, err := exec.LookPath(shell); err != nil {
		shell = "sh"
	}
	cmd := exec.Command(shell, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{
		"HOME=/", "PATH=" + b.path("sbin") + ":" + b.path("bin") + ":" + b.path("usr/sbin") + ":" + b.path("usr/bin") + ":/usr/bin:/bin",
		"ROOT=" + b.root, "RELEASE=" + b.release,
	}, b.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second // a daemon that has kept stdout open
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		b.Fatalf("%q: %v\n%s", args, err, &out)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (b *box) service(args ...string) (string, int) {
	b.Helper()
	return b.command(append([]string{b.path("usr/local/etc/rc.d/" + b.script)}, args...)...)
}

// must runs a command of the service and expects it to succeed.
func (b *box) must(args ...string) string {
	b.Helper()
	out, status := b.service(args...)
	if status != 0 {
		b.Fatalf("%s: status %d\n%s", args, status, out)
	}
	return out
}

// refused expects a command to fail with all of these in its output.
func (b *box) refused(command string, wants ...string) string {
	b.Helper()
	out, status := b.service(command)
	if status == 0 {
		b.Errorf("%s: status 0\n%s", command, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, strings.ReplaceAll(want, "ROOT", b.root)) {
			b.Errorf("%s: no %q in\n%s", command, want, out)
		}
	}
	return out
}

func (b *box) calls(tool string) (calls []call) {
	f, err := os.Open(b.path("calls"))
	if err != nil {
		return nil
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var c call
		if json.Unmarshal(in.Bytes(), &c) == nil && (tool == "" || c.Tool == tool) {
			for i := range c.Args {
				c.Args[i], _ = strconv.Unquote(c.Args[i])
			}
			calls = append(calls, c)
		}
	}
	return calls
}

func (b *box) lastCall(tool string) call {
	b.Helper()
	c := b.calls(tool)
	if len(c) == 0 {
		b.Fatalf("%s was not called", tool)
	}
	return c[len(c)-1]
}

// checked is the argument list of the last -check, without that flag.
func (b *box) checked() []string {
	b.Helper()
	for _, c := range slices.Backward(b.calls("run")) {
		if c.Args[0] == "-check" {
			return c.Args[1:]
		}
	}
	b.Fatal("no -check")
	return nil
}

// started is the last monitor.
func (b *box) started() call {
	b.Helper()
	for _, c := range slices.Backward(b.calls("run")) {
		if c.Args[0] != "-check" {
			return c
		}
	}
	b.Fatal("no monitor")
	return call{}
}

func (b *box) same(what string, got []string, want ...string) {
	b.Helper()
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "ROOT", b.root)
	}
	if !slices.Equal(got, want) {
		b.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func (b *box) pid(file string) int {
	s, _ := os.ReadFile(b.path("var/run/" + file))
	n, _ := strconv.Atoi(strings.TrimSpace(string(s)))
	return n
}

func alive(pid int) bool {
	s, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(s, []byte(") Z "))
}

func (b *box) exists(path string) bool {
	_, err := os.Lstat(b.path(path))
	return err == nil
}

// eventually waits for what another process is about to do.
func (b *box) eventually(what string, cond func() bool) {
	b.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("still not: %s", what)
		}
	}
}

// gone expects nothing of the service to be left.
func (b *box) gone(name string, monitor ...int) {
	b.Helper()
	for _, pid := range monitor {
		if alive(pid) {
			b.Errorf("the monitor, process %d, is still there", pid)
		}
	}
	for _, f := range []string{name + ".pid", name + ".daemon.pid", name + "/" + name + ".sock"} {
		if b.exists("var/run/" + f) {
			b.Errorf("/var/run/%s is still there", f)
		}
	}
}

// daemonEnds waits for the end of a daemon(8). It is not there yet when its
// pidfiles are gone: removing them is the last thing that it does but one.
func (b *box) daemonEnds(pid int) {
	b.Helper()
	b.eventually(fmt.Sprintf("the end of daemon(8), process %d", pid), func() bool { return !alive(pid) })
}

func (b *box) signals() (s []string) {
	for _, c := range b.calls("signal") {
		s = append(s, c.Args[0])
	}
	return s
}

// shellQuote writes s so that rc.conf gives the variable exactly s.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
