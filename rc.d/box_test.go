//go:build linux

package rcd_test

import (
	"bytes"
	"cmp"
	"fmt"
	"net"
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

// A box is a directory that stands for / of one FreeBSD, with the script
// installed, and the stand-ins of testdata for what it uses.
type box struct {
	*testing.T
	root, release, script string
	env                   []string
}

func newBox(t *testing.T, release string) *box {
	t.Helper()
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
	b.write("programs", read(t, "testdata/programs"))
	os.Chmod(b.path("programs"), 0o755)
	for _, p := range []string{
		"usr/sbin/daemon", "usr/sbin/chroot", "usr/sbin/service", "usr/sbin/jail", "usr/sbin/jls", "usr/bin/cpuset", "usr/bin/id",
		"usr/bin/protect", "bin/ps", "sbin/sysctl", "bin/kenv", "usr/local/sbin/onewake", "usr/local/sbin/onewake2",
	} {
		os.Symlink(b.path("programs"), b.path(p))
	}
	for _, p := range []string{"nice", "env", "true"} {
		real, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		os.Symlink(real, b.path("usr/bin/"+p))
	}

	// Monitors read never, and daemons in the pause read again, until the test
	// is over; a monitor's socket is a link to socket.
	for _, p := range []string{"never", "again"} {
		if err := syscall.Mkfifo(b.path(p), 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(b.path(p), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
	l, err := net.Listen("unix", b.path("socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })

	subr := read(t, "testdata/rc.subr")
	if release == "15" {
		subr += read(t, "testdata/rc.subr.15")
	}
	if real := os.Getenv("RCSUBR_" + release); real != "" {
		subr = read(t, real)
		for _, p := range []string{"/etc/", "/etc ", "/usr/sbin/", "/usr/bin/", "/bin/ps", "/sbin/sysctl"} {
			subr = regexp.MustCompile(`([\s"=(.])`+p).ReplaceAllString(subr, "${1}"+dir+p)
		}
		subr = strings.ReplaceAll(subr, "logger ", ": ") // which would be this system's
		b.write("etc/defaults", "")
	}
	b.write("etc/rc.subr", subr+"\nstandins_read=yes\n. \"$ROOT/programs\"\n"+`
if [ -n "$PRINT" ]; then
	run_rc_command()
	{
		[ -z "$_ow_problem" ] || err 1 "$_ow_problem"
		eval "set -- $command_args"
		printf '%s\0' "$@"
	}
fi
`)
	b.write("usr/local/etc/rc.d/onewake", b.relocate(read(t, "onewake")))
	os.Chmod(b.path("usr/local/etc/rc.d/onewake"), 0o755)
	return b
}

// relocate does what installing does, and puts / elsewhere.
func (b *box) relocate(s string) string {
	s = strings.ReplaceAll(s, "%%PREFIX%%", b.path("usr/local"))
	for _, p := range []string{"/etc/rc.subr", "/var/run", "/usr/sbin/daemon", "/usr/sbin/chroot", "/usr/bin/"} {
		before := s
		s = regexp.MustCompile(`([\s"=.:+-])`+p).ReplaceAllString(s, "${1}"+b.root+p)
		if s == before {
			b.Fatalf("the script does not mention %s", p)
		}
	}
	return s
}

// destroy ends what the test has left running: whatever names the directory.
func (b *box) destroy() {
	if b.Failed() {
		log, _ := os.ReadFile(b.path("log"))
		b.Logf("log:\n%s", log[:min(len(log), 1000)])
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if cmdline, _ := os.ReadFile(f); strings.Contains(string(cmdline), b.root+"/") {
			pid, _ := strconv.Atoi(strings.Split(f, "/")[2])
			syscall.Kill(pid, syscall.SIGKILL)
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

// write writes a file; ROOT in it stands for the box's directory.
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

// behave tells the stand-in of onewake what to do, in its variables.
func (b *box) behave(s string) {
	b.Helper()
	b.write("behave", s+"\n")
}

// command runs a script as service(8) does.
func (b *box) command(args ...string) (output string, status int) {
	b.Helper()
	cmd := exec.Command(cmp.Or(os.Getenv("RCSH"), "/bin/sh"), args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{
		"HOME=/", "LANG=C.UTF-8", "PATH=" + b.path("sbin") + ":" + b.path("bin") + ":" + b.path("usr/sbin") + ":" + b.path("usr/bin") + ":/usr/bin:/bin",
		"ROOT=" + b.root, "RELEASE=" + b.release,
	}, b.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 30 * time.Second // a daemon that has kept stdout open
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
func (b *box) refused(command string, wants ...string) {
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
}

// arguments are those that the script has for daemon(8), as rc.subr's eval
// makes them.
func (b *box) arguments(conf ...string) []string {
	b.Helper()
	b.conf(append([]string{b.script + "_enable=YES"}, conf...)...)
	b.env = append(b.env, "PRINT=yes")
	out := b.must("start")
	b.env = slices.DeleteFunc(b.env, func(v string) bool { return v == "PRINT=yes" })
	return strings.Split(strings.TrimSuffix(out, "\x00"), "\x00")
}

// A call is one of a stand-in.
type call struct {
	pid  int
	tool string
	args []string
}

func (b *box) calls(tools ...string) (calls []call) {
	s, _ := os.ReadFile(b.path("calls"))
	words := strings.Split(string(s), "\x00")
	for len(words) > 2 {
		pid, _ := strconv.Atoi(words[0])
		n, _ := strconv.Atoi(words[1])
		if words = words[2:]; len(words) <= n {
			break
		}
		if len(tools) == 0 || slices.Contains(tools, words[0]) {
			calls = append(calls, call{pid, words[0], words[1:n:n]})
		}
		words = words[n:]
	}
	return calls
}

func (b *box) lastCall(tool string) []string {
	b.Helper()
	c := b.calls(tool)
	if len(c) == 0 {
		b.Fatalf("%s was not called", tool)
	}
	return c[len(c)-1].args
}

// monitors are all that have been started.
func (b *box) monitors() []call {
	return slices.DeleteFunc(b.calls("onewake"), func(c call) bool { return c.args[0] == "-check" })
}

func (b *box) started() call {
	b.Helper()
	m := b.monitors()
	if len(m) == 0 {
		b.Fatal("no monitor")
	}
	return m[len(m)-1]
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

func (b *box) kill(pid int) {
	b.Helper()
	if pid <= 0 || syscall.Kill(pid, syscall.SIGKILL) != nil {
		b.Fatalf("process %d cannot be killed", pid)
	}
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
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatalf("still not: %s", what)
		}
	}
}

// gone expects nothing of the service to be left. A daemon(8) has removed its
// pidfiles when it has not quite ended.
func (b *box) gone(name string, daemon int, monitors ...int) {
	b.Helper()
	for _, pid := range monitors {
		if pid == 0 || alive(pid) {
			b.Errorf("the monitor, process %d, is still there", pid)
		}
	}
	for _, f := range []string{name + ".pid", name + ".daemon.pid"} {
		if b.exists("var/run/" + f) {
			b.Errorf("/var/run/%s is still there", f)
		}
	}
	b.eventually(fmt.Sprintf("the end of daemon(8), process %d", daemon), func() bool { return !alive(daemon) })
}

func (b *box) signals() (s []string) {
	for _, c := range b.calls("signal") {
		s = append(s, c.args[0])
	}
	return s
}

// shellQuote writes s so that rc.conf gives the variable exactly s.
func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
