//go:build freebsd || linux

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The following functions are for the tests at the top of the repository, which
// are specific to one system.

// Main is the TestMain of a package that uses this one.
func Main(m *testing.M) int { return testMain(m, false) }

// Build builds onewake with additional arguments of go build and returns its
// path.
func Build(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(newDir(t, nil), "onewake")
	args = append([]string{"build", "-o", path, "-ldflags", "-X main.version=" + testVersion}, args...)
	if err := goBuild("CGO_ENABLED=0", args...); err != nil {
		t.Fatal(err)
	}
	return path
}

// Need skips the test if a program is missing, and says how to install it.
func Need(t *testing.T, program, install string) string {
	t.Helper()
	return need(t, program, install)
}

// NeedRoot skips the test unless root runs it.
func NeedRoot(t *testing.T, why string) {
	t.Helper()
	needRoot(t, why)
}

// SkipRace skips a test of the system calls of a core: the race detector makes
// others.
func SkipRace(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("the race detector makes calls of its own; the tests without it run this")
	}
}

// Cores is the number of cores that one call of [Life] starts.
const Cores = 4

// Life starts onewake, or another build of it, and sends it requests of each
// kind: raw output, a body that goes through a file, CGI, a timeout. It reloads
// once and then stops. before precedes the command line of onewake.
func Life(t *testing.T, bin string, before ...string) {
	t.Helper()
	launch{bin: bin, before: before}.life(t)
}

func (l launch) life(t *testing.T) {
	t.Helper()
	with := func(args ...string) *server {
		t.Helper()
		l.args = args
		return l.start(t)
	}
	// The command runs no programs, because those of FreeBSD's base system
	// enter capability mode themselves.
	s := with(sh(`case $PATH_INFO in
/body) read -r line; echo "$CONTENT_LENGTH $line";;
*) echo hello;;
esac`)...)
	s.get("/").want(t, 200, "hello\n")
	body := "first line\n" + strings.Repeat("x", 200<<10)
	s.request("POST", chunked11("/body", body)).want(t, 200, fmt.Sprintln(len(body), "first line"))
	s.signal(syscall.SIGHUP)
	s.await("core replaced")
	s.get("/").want(t, 200, "hello\n")
	s.stop()

	s = with(append([]string{"-cgi"}, sh(`printf 'Status: 404\nContent-Type: text/x\n\nbody'`)...)...)
	a := s.get("/")
	a.want(t, 404, "body")
	if ct := a.header.Get("Content-Type"); ct != "text/x" {
		t.Errorf("Content-Type %q", ct)
	}
	s.stop()

	s = with(append([]string{"-timeout", "100ms"}, sh("exec sleep 1000")...)...)
	s.get("/").wantStatus(t, 504)
	s.stop()
}

// Process describes a process. A descriptor is "NUMBER NAME" on Linux, and
// "NUMBER TYPE NAME RIGHTS" on FreeBSD, with the abbreviations of procstat.
type Process struct {
	PID         int
	Environment string
	Descriptors []string
}

func look(t *testing.T, pid int) Process {
	t.Helper()
	p := Process{pid, environment(t, pid), descriptors(t, pid)}
	t.Logf("process %d has the environment %q and open\n%s", pid, p.Environment, strings.Join(p.Descriptors, "\n"))
	return p
}

// EachCore starts onewake as root and as an ordinary user, with open
// descriptors and with secrets in the environment. It has two Unix listeners
// and a TCP listener. It calls show for the first core, for one after a reload
// and for one after a crash, when they have no connection.
func EachCore(t *testing.T, show func(t *testing.T, monitor int, core Process)) {
	t.Helper()
	needRoot(t, "monitor and core are closed to their own user")
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			l := careless(t)
			l.cred = cred
			l.dir = newDir(t, cred)
			l.args = append([]string{"-listen", "unix:" + l.dir + "/s", "-listen", "unix:" + l.dir + "/s2", "-listen", "tcp4:127.0.0.1:0"}, sh("echo hello")...)
			s := l.start(t)
			before := len(look(t, s.core).Descriptors)
			noConnection := func(core int) {
				eventually(t, "no connection left", func() bool { return len(look(t, core).Descriptors) <= before })
			}
			s.get("/").want(t, 200, "hello\n")
			noConnection(s.core)
			show(t, s.pid, look(t, s.core))

			s.signal(syscall.SIGHUP)
			s.await("core replaced")
			replaced := s.currentCore()
			show(t, s.pid, look(t, replaced))

			s.errorsExpected = true
			if err := syscall.Kill(replaced, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			s.await("core died")
			s.get("/").want(t, 200, "hello\n")
			last := s.currentCore()
			noConnection(last)
			show(t, s.pid, look(t, last))
			s.stop()
		})
	}
}

// CoreAtWork calls show while a command runs that has a body.
func CoreAtWork(t *testing.T, show func(core Process)) {
	t.Helper()
	needRoot(t, "the core is closed to its own user")
	dir := newDir(t, nil)
	open := newGate(t, dir+"/gate")
	s := shell(t, `echo $$ >leader; : <gate; echo done`, "-dir", dir)
	c := dial(t, s.addr)
	c.send("%s", chunked11("/", strings.Repeat("x", 100000)))
	readPID(t, dir+"/leader")
	show(look(t, s.core))
	open()
	c.answer("POST").want(t, 200, "done\n")
	s.stop()
}

// Untraceable checks that a command cannot trace monitor and core, which run as
// the same user.
func Untraceable(t *testing.T) {
	t.Helper()
	cred := (*syscall.Credential)(nil)
	if os.Geteuid() == 0 {
		cred = nobody(t)
	}
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	pids := filepath.Join(newDir(t, nil), "pids")
	// A process that can be traced shows that the test works. It has begun to
	// work, because FreeBSD refuses to show the environment right after execve(2).
	cmd := exec.Command("/bin/sh", "-c", "echo ready; read -r line")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	_, err1 := cmd.StdinPipe() // open until the end of the test
	stdout, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	open := startCmd(t, cmd).Process.Pid
	if _, err := io.ReadFull(stdout, make([]byte, len("ready\n"))); err != nil {
		t.Fatal(err)
	}
	s := launch{cred: cred, args: []string{"-env", envRole + "=spy", "--", path, pids}}.start(t)
	if err := os.WriteFile(pids, fmt.Appendf(nil, "%d %d %d", open, s.pid, s.core), 0o644); err != nil {
		t.Fatal(err)
	}
	a := s.get("/")
	t.Logf("the command says:\n%s", a.body)
	lines := strings.Split(strings.TrimSpace(a.body), "\n")
	if a.status != 200 || len(lines) != 3*len(spyMethods) {
		t.Fatalf("%d, %q", a.status, a.body)
	}
	for _, line := range lines {
		f := strings.SplitN(line, " ", 3) // pid, what, result
		if ok := f[2] == "done"; ok != (f[0] == strconv.Itoa(open)) {
			t.Error(line)
		}
	}
	s.stop()
}

type spyMethod struct {
	name string
	do   func(pid int) error
}

// roleSpy tries to trace the processes that are listed in a file.
func roleSpy(args []string) int {
	b, err := os.ReadFile(args[0])
	if err != nil {
		fmt.Println(err)
		return 1
	}
	for _, f := range bytes.Fields(b) {
		pid, _ := strconv.Atoi(string(f))
		for _, try := range spyMethods {
			result := "done"
			if err := try.do(pid); err != nil {
				result = err.Error()
			}
			fmt.Println(pid, try.name, result)
		}
	}
	return 0
}
