//go:build freebsd || linux

// Package e2e tests the built binary over real sockets. This file and client.go
// are the harness: they build onewake, start it, send requests, read its log
// and stop it. export.go is for the tests of other packages.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Environment variables of the tests.
const (
	envBinary = "ONEWAKE_TEST_BINARY" // an existing onewake binary
	envRole   = "ONEWAKE_TEST_ROLE"   // what this test binary acts as, see roles
	envNoSkip = "ONEWAKE_TEST_NOSKIP" // 1: fail instead of skip if a program is missing
)

// patience limits every wait, to end tests that hang. It is much longer than
// anything takes on a slow machine.
const patience = time.Minute

// sources is the directory of go.mod.
var sources = func() string {
	dir, _ := os.Getwd()
	for dir != "/" {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}()

// testVersion is the version of the binary under test.
const testVersion = "0.0-test"

var (
	tools     string // directory of programs for every user
	underTest string // onewake
)

// roles are the programs that the test binary can act as in a process of its
// own, for example a client of another user or a command. Each returns an exit
// status.
var roles = map[string]func(args []string) int{
	"connect": roleConnect,
	"spy":     roleSpy,
}

// testMain runs the tests of a package, or a role. It builds the binary under
// test at once, or when a test first starts it.
func testMain(m *testing.M, atOnce bool) int {
	if role := os.Getenv(envRole); role != "" {
		return roles[role](os.Args[1:])
	}
	flag.Parse()
	// Most of the time is spent waiting for other processes.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		flag.Set("test.parallel", "6")
	}
	var err error
	if tools, err = os.MkdirTemp("", "ow"); err == nil {
		err = os.Chmod(tools, 0o755)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(tools)
	if underTest = os.Getenv(envBinary); underTest == "" {
		underTest = filepath.Join(tools, "onewake")
	}
	if atOnce {
		if err := built(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return m.Run()
}

// built builds the binary under test.
var built = sync.OnceValue(func() error {
	if os.Getenv(envBinary) != "" {
		return nil
	}
	return build(underTest, "main.version="+testVersion)
})

func needBinary(t *testing.T) {
	t.Helper()
	lookAtSources()
	if err := built(); err != nil {
		t.Fatal(err)
	}
}

// build builds onewake with the given string variables set.
func build(to string, vars ...string) error {
	args := []string{"build", "-o", to}
	cgo := "CGO_ENABLED=0"
	if raceEnabled {
		args, cgo = append(args, "-race"), "CGO_ENABLED=1"
	}
	if len(vars) > 0 {
		args = append(args, "-ldflags", "-X "+strings.Join(vars, " -X "))
	}
	return goBuild(cgo, args...)
}

// goBuild runs go in the directory of the sources.
func goBuild(cgo string, args ...string) error {
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = sources
	cmd.Env = append(os.Environ(), cgo)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// lookAtSources makes go test see that the results depend on all sources. They
// are in the binary that is built here, not in the test binary, so a cached
// result could be outdated.
var lookAtSources = sync.OnceFunc(func() {
	filepath.WalkDir(sources, func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".go") {
			os.Stat(path)
		}
		return nil
	})
})

// self returns a copy of this test binary that every user can execute.
var self = sync.OnceValues(func() (string, error) {
	path := filepath.Join(tools, "self")
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	return path, copyFile(path, exe, 0o755)
})

func copyFile(to, from string, mode os.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return writeProgram(to, b, mode)
}

// writeProgram writes an executable file. It prevents forks meanwhile: a child
// would have the file open for writing for a moment, and executing it would
// fail with ETXTBSY.
func writeProgram(path string, text []byte, mode os.FileMode) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path+".new", text, mode); err != nil {
		return err
	}
	if err := os.Chmod(path+".new", mode); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// need skips the test if a program is missing, and says how to install it.
func need(t *testing.T, program, install string) string {
	t.Helper()
	for _, dir := range append(filepath.SplitList(commandPath), "/usr/lib/git-core", "/usr/libexec/git-core", "/usr/local/libexec/git-core") {
		path := filepath.Join(dir, program)
		if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o111 != 0 {
			return path
		}
	}
	missing(t, "no %s (to get it: %s)", program, install)
	return ""
}

// missing skips the test, or fails it if ONEWAKE_TEST_NOSKIP is 1.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv(envNoSkip) == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// needRoot skips the test unless root runs it.
func needRoot(t *testing.T, why string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: ", why)
	}
}

// nobody is an ordinary user that exists everywhere.
func nobody(t *testing.T) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// newDir makes a directory with a short path that others can enter, owned by
// cred.
func newDir(t *testing.T, cred *syscall.Credential) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err == nil && cred != nil {
		err = os.Chown(dir, int(cred.Uid), int(cred.Gid))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// script writes an executable shell script.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := writeProgram(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// sh returns the command line of a shell script.
func sh(text string) []string { return []string{"--", "/bin/sh", "-c", text} }

func shell(t *testing.T, text string, flags ...string) *server {
	t.Helper()
	return start(t, append(flags, sh(text)...)...)
}

func cgi(t *testing.T, text string, flags ...string) *server {
	t.Helper()
	return shell(t, text, append(flags, "-cgi")...)
}

// users returns the users that tests start servers as: root and an ordinary
// user if root runs the tests.
func users(t *testing.T) []*syscall.Credential {
	if os.Geteuid() == 0 {
		return []*syscall.Credential{nil, nobody(t)}
	}
	return []*syscall.Credential{nil}
}

func userLabel(cred *syscall.Credential) string {
	if cred == nil {
		return "uid " + strconv.Itoa(os.Geteuid())
	}
	return "uid " + strconv.Itoa(int(cred.Uid))
}

// newGate makes a FIFO. Commands wait at it with `: <path` until open is
// called. After that all pass.
func newGate(t *testing.T, path string) (open func()) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o666); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
	}
}

// careless is a launch like that of a careless script: with secrets in the
// environment, open descriptors and ignored signals.
func careless(t *testing.T) launch {
	t.Helper()
	secret := filepath.Join(newDir(t, nil), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return launch{
		env: []string{
			"PATH=/nonexistent:/bin:/usr/bin", "HOME=/root", "SECRET=secret", "HTTP_PROXY=http://evil.example",
			"http_proxy=http://evil.example", "LD_PRELOAD=", "IFS=x", "GODEBUG=gctrace=0", "GOTRACEBACK=all", "GOMAXPROCS=2", "SHARED=old",
		},
		files: []*os.File{f, f, f, f, f},
		shell: "trap '' HUP USR2 PIPE CHLD TTOU",
	}
}

// A launch says how to start onewake. Most tests set only args.
type launch struct {
	args   []string
	bin    string              // instead of the binary under test
	env    []string            // instead of the tests' own
	files  []*os.File          // descriptors from 3 on
	cred   *syscall.Credential // the user to run as, and owner of the directory
	dir    string              // of the socket; made if empty
	before []string            // a command line that onewake is appended to
	shell  string              // shell commands to run before, in the same process
	sys    func(*syscall.SysProcAttr)
	raw    bool // no -listen is added
}

// server is a running onewake.
type server struct {
	t              *testing.T
	cmd            *exec.Cmd
	dir            string
	path           string // of the socket
	addr           string // to dial
	pid            int
	core           int // the first core
	cred           *syscall.Credential
	stdout         bytes.Buffer
	errorsExpected bool // the log may contain errors

	mu         sync.Mutex
	changed    chan struct{}
	records    []record
	otherLines []string // lines that are not records
	eof        bool
	exited     chan struct{}
}

// record is a log record. Lists are strings as in the log.
type record map[string]string

func (r record) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", r["time"], r["msg"])
	for _, k := range slices.Sorted(maps.Keys(r)) {
		if k != "time" && k != "msg" && k != "level" && k != "enforced" {
			fmt.Fprintf(&b, " %s=%.150q", k, r[k])
		}
	}
	return b.String()
}

// start starts onewake on its own Unix socket and waits until it serves.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	return launch{args: args}.start(t)
}

func (l launch) start(t *testing.T) *server {
	t.Helper()
	s := l.begin(t)
	rec := s.await("start")
	s.pid, _ = strconv.Atoi(rec["pid"]) // not the pid of launch.before
	s.core, _ = strconv.Atoi(rec["core"])
	if s.addr == "" {
		s.addr = dialable(splitList(rec["listen"])[0])
	}
	return s
}

// begin starts onewake and does not wait.
func (l launch) begin(t *testing.T) *server {
	t.Helper()
	needBinary(t)
	s := &server{t: t, dir: l.dir, cred: l.cred, changed: make(chan struct{}), exited: make(chan struct{})}
	if s.dir == "" {
		s.dir = newDir(t, l.cred)
	}
	s.path = filepath.Join(s.dir, "s")
	args := l.args
	if !l.raw && !slices.Contains(args, "-listen") {
		args = append([]string{"-listen", "unix:" + s.path}, args...)
		s.addr = "unix:" + s.path
	}
	s.cmd = l.command(context.Background(), args)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, w
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		t.Fatal(err)
	}
	s.pid = s.cmd.Process.Pid
	go s.readLog(r)
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	t.Cleanup(s.cleanup)
	return s
}

// command returns the command line and its environment.
func (l launch) command(ctx context.Context, args []string) *exec.Cmd {
	argv := []string{underTest}
	if l.bin != "" {
		argv[0] = l.bin
	}
	argv = append(argv, args...)
	if l.shell != "" {
		argv = append([]string{"/bin/sh", "-c", l.shell + `; exec "$@"`, "sh"}, argv...)
	}
	argv = slices.Concat(l.before, argv)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = l.env
	if raceEnabled && l.env == nil {
		// Otherwise each process takes a second to exit, like the cores.
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	}
	cmd.ExtraFiles = l.files
	cmd.Dir = "/"
	cmd.WaitDelay = patience
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: l.cred}
	if l.sys != nil {
		l.sys(cmd.SysProcAttr)
	}
	return cmd
}

func (s *server) readLog(r *os.File) {
	defer r.Close()
	var rest []byte
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		rest = append(rest, buf[:n]...)
		s.mu.Lock()
		for {
			line, after, found := bytes.Cut(rest, []byte("\n"))
			if !found {
				break
			}
			rest = after
			if rec, ok := parseRecord(string(line)); ok {
				s.records = append(s.records, rec)
			} else {
				s.otherLines = append(s.otherLines, string(line))
			}
		}
		if err != nil {
			s.eof = true
			if len(rest) > 0 {
				s.otherLines = append(s.otherLines, string(rest))
			}
		}
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// cleanup kills what the test has left running, and checks the log for records
// that should not occur.
func (s *server) cleanup() {
	select {
	case <-s.exited:
	default:
		s.cmd.Process.Kill()
		if s.pid != s.cmd.Process.Pid {
			syscall.Kill(s.pid, syscall.SIGKILL)
		}
		<-s.exited
	}
	s.until("the end of the log", func() bool { return s.eof })
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.errorsExpected {
		for _, r := range s.records {
			switch r["msg"] {
			case "core died", "protocol violation by core", "core connection failed", "log records dropped",
				"cannot protect the monitor from tracing", "cannot accept":
				s.t.Errorf("in the log: %v", r)
			}
		}
		if len(s.otherLines) > 0 {
			s.t.Errorf("lines in the log that are not records:\n%s", strings.Join(s.otherLines, "\n"))
		}
	}
	if s.t.Failed() {
		var b strings.Builder
		for _, r := range s.records[max(0, len(s.records)-40):] {
			fmt.Fprintln(&b, r.String())
		}
		s.t.Logf("the end of the log of %.300q:\n%s%s", s.cmd.Args[1:], &b, strings.Join(s.otherLines, "\n"))
	}
}

// until waits for a condition. It calls ok with s.mu held.
func (s *server) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.After(patience)
	for {
		s.mu.Lock()
		done, changed, eof := ok(), s.changed, s.eof
		s.mu.Unlock()
		if done {
			return
		}
		if eof {
			s.t.Fatalf("no %s at the end of the log", what)
		}
		select {
		case <-changed:
		case <-deadline:
			s.t.Fatalf("no %s within %v", what, patience)
		}
	}
}

// find returns the records with this message and these keys and values.
func (s *server) find(msg string, kv ...string) []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.findLocked(msg, kv)
}

func (s *server) findLocked(msg string, kv []string) (found []record) {
next:
	for _, r := range s.records {
		if r["msg"] != msg {
			continue
		}
		for i := 0; i < len(kv); i += 2 {
			if r[kv[i]] != kv[i+1] {
				continue next
			}
		}
		found = append(found, r)
	}
	return found
}

// await waits for a record and returns the first one.
func (s *server) await(msg string, kv ...string) record {
	s.t.Helper()
	return s.awaitN(1, msg, kv...)
}

// awaitN waits for n records and returns the nth.
func (s *server) awaitN(n int, msg string, kv ...string) (r record) {
	s.t.Helper()
	s.until(fmt.Sprintf("record %q %q (%d)", msg, kv, n), func() bool {
		if found := s.findLocked(msg, kv); len(found) >= n {
			r = found[n-1]
			return true
		}
		return false
	})
	return r
}

// logText returns the whole log.
func (s *server) logText() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for _, r := range s.records {
		for _, k := range slices.Sorted(maps.Keys(r)) {
			fmt.Fprintf(&b, "%s=%s ", k, r[k])
		}
		b.WriteByte('\n')
	}
	return b.String() + strings.Join(s.otherLines, "\n")
}

// signal signals the monitor.
func (s *server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := syscall.Kill(s.pid, sig); err != nil {
		s.t.Fatal(err)
	}
}

// wait waits for the exit and returns the status, or -1 for a signal.
func (s *server) wait() int {
	s.t.Helper()
	select {
	case <-s.exited:
	case <-time.After(patience):
		s.t.Fatalf("onewake has not exited within %v", patience)
	}
	s.until("the end of the log", func() bool { return s.eof })
	return s.cmd.ProcessState.ExitCode()
}

// stop stops the server and checks its exit status and that the socket file is
// removed.
func (s *server) stop() {
	s.t.Helper()
	s.signal(syscall.SIGTERM)
	if st := s.wait(); st != statusOK {
		s.t.Errorf("exit status %d after SIGTERM, want 0", st)
	}
	if _, err := os.Lstat(s.path); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("socket file after a stop: %v, want none", err)
	}
	s.await("stopped")
}

// currentCore returns the core that serves, according to the status record.
func (s *server) currentCore() (pid int) {
	s.t.Helper()
	eventually(s.t, "a core that serves", func() bool {
		pid, _ = strconv.Atoi(s.status()["core"])
		return pid > 0
	})
	return pid
}

// status requests a status record.
func (s *server) status() record {
	s.t.Helper()
	n := len(s.find("status"))
	s.signal(syscall.SIGUSR1)
	return s.awaitN(n+1, "status")
}

// parseRecord parses a log line in either format.
func parseRecord(line string) (record, bool) {
	r := make(record)
	if strings.HasPrefix(line, "{") {
		var m map[string]any
		if json.Unmarshal([]byte(line), &m) != nil {
			return nil, false
		}
		for k, v := range m {
			r[k] = fmt.Sprint(v)
		}
		return r, r["msg"] != ""
	}
	if !strings.HasPrefix(line, "time=") {
		return nil, false
	}
	for line != "" {
		key, rest, ok := strings.Cut(line, "=")
		if !ok || strings.ContainsAny(key, " \"") {
			return nil, false
		}
		if !strings.HasPrefix(rest, `"`) {
			r[key], line, _ = strings.Cut(rest, " ")
			continue
		}
		q, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return nil, false
		}
		r[key], _ = strconv.Unquote(q)
		if line = rest[len(q):]; line != "" && line[0] != ' ' {
			return nil, false
		}
		line = strings.TrimPrefix(line, " ")
	}
	return r, r["msg"] != "" && r["level"] != ""
}

func splitList(s string) []string { return strings.Split(s, ", ") }

// dialable converts the name of a listener to an address for dial.
func dialable(name string) string {
	network, address, _ := strings.Cut(name, ":")
	if network == "unix" {
		return name
	}
	return "tcp:" + address
}

// result is the result of an onewake that has exited by itself.
type result struct {
	status         int
	stdout, stderr string
}

// run runs onewake until it exits.
func run(t *testing.T, args ...string) result {
	t.Helper()
	return launch{args: args, raw: true}.run(t)
}

func (l launch) run(t *testing.T) result {
	t.Helper()
	needBinary(t)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := l.command(ctx, l.args)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("onewake %q has not exited within %v", l.args, patience)
	}
	var ee *exec.ExitError
	if err != nil && !errors.As(err, &ee) {
		t.Fatal(err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// as runs a role of this test binary as another user, or as the same user if
// cred is nil, and returns its output.
func as(t *testing.T, cred *syscall.Credential, role string, args ...string) string {
	t.Helper()
	path, err := self()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), envRole+"="+role)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", role, args, err, out)
	}
	return string(out)
}

// roleConnect sends a request to each path and prints a line for each: "in" and
// the status, or the error.
func roleConnect(paths []string) int {
	for _, p := range paths {
		c, err := net.DialTimeout("unix", p, patience)
		if err != nil {
			var errno syscall.Errno
			errors.As(err, &errno)
			fmt.Println(errno.Error())
			continue
		}
		c.SetDeadline(time.Now().Add(patience))
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		b, err := io.ReadAll(c)
		c.Close()
		if fields := strings.Fields(string(b)); len(fields) > 1 {
			fmt.Println("in", fields[1])
		} else {
			fmt.Println("closed", err)
		}
	}
	return 0
}

// eventually polls a condition for which there is no event.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// readPID waits for a file with a process ID and a newline.
func readPID(t *testing.T, path string) (pid int) {
	t.Helper()
	eventually(t, "a pid in "+path, func() bool {
		b, _ := os.ReadFile(path)
		pid, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		return pid > 0 && bytes.HasSuffix(b, []byte("\n"))
	})
	return pid
}

// awaitGone waits until processes have exited.
func awaitGone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		eventually(t, fmt.Sprintf("the end of process %d", pid), func() bool { return isGone(pid) })
	}
}

// startWithLog starts onewake with a given stderr.
func startWithLog(t *testing.T, stderr *os.File, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(underTest, args...)
	cmd.Stderr = stderr
	return startCmd(t, cmd)
}

// startCmd starts cmd and kills it at the end of the test.
func startCmd(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	cmd.Dir = "/"
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd
}

// awaitServing waits until a server accepts connections. It is for servers
// whose log the test cannot read.
func awaitServing(t *testing.T, addr string) {
	t.Helper()
	eventually(t, "a server at "+addr, func() bool {
		c, err := dialErr(addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// stopProcess sends SIGSTOP to a process and waits until it has stopped.
func stopProcess(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, fmt.Sprintf("process %d stops", pid), func() bool { return isStopped(pid) })
}
