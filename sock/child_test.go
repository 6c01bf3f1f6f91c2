package sock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// unchanged leaves mode and owner alone.
var unchanged perms.Spec

func mode(m int) perms.Spec { return perms.Spec{Mode: perms.Set(m)} }

const (
	// nobody is an ordinary user and group for children of root.
	nobody = 65534
	// hang is the time after which a test fails.
	hang = time.Minute
	// never is a waiting time that no test reaches.
	never = time.Hour
)

// TestMain runs one of the roles if the test binary was started as a child, which
// may run as another user or be killed. A child reports each step on a line of its
// standard output. It continues when it reads a line, or the end, of its standard
// input.
func TestMain(m *testing.M) {
	role := os.Getenv("SOCK_TEST_ROLE")
	if role == "" {
		code := m.Run()
		if binaryDir != "" {
			os.RemoveAll(binaryDir)
		}
		os.Exit(code)
	}
	if err := roles[role](childContext(), os.Getenv("SOCK_TEST_PATH")); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

var roles = map[string]func(ctx context.Context, path string) error{
	"connect": childConnect,
	"hold":    childHold,
	"other":   childOther,
}

// For the examples, which are in another package.
var (
	Roles = roles
	Get   = get
)

// withSteps returns a context with which Listen calls f at each step.
func withSteps(f func(name string)) context.Context {
	return context.WithValue(context.Background(), stepKey{}, f)
}

// childContext makes a child report the first time that it reaches each step in
// SOCK_TEST_REPORT, and wait at the step SOCK_TEST_WAIT.
func childContext() context.Context {
	report := strings.Split(os.Getenv("SOCK_TEST_REPORT"), ",")
	wait := os.Getenv("SOCK_TEST_WAIT")
	return withSteps(func(name string) {
		if i := slices.Index(report, name); i >= 0 {
			report[i] = ""
			fmt.Println("at", name)
		}
		if name == wait {
			wait = ""
			fmt.Println("at", name)
			stdin.ReadString('\n')
		}
	})
}

var stdin = bufio.NewReader(os.Stdin)

// childConnect connects once for each line.
func childConnect(_ context.Context, path string) error {
	for {
		if _, err := stdin.ReadString('\n'); err != nil {
			return nil
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			fmt.Println(err)
			continue
		}
		defer c.Close()
		fmt.Println("connected", os.Getpid())
	}
}

// childHold listens until its input ends.
func childHold(ctx context.Context, path string) error {
	syscall.Umask(0o777) // has no effect
	l, err := Config{Perms: mode(0o060), LockWait: never}.Listen(ctx, Addr{Unix, path})
	if err != nil {
		return err
	}
	step(ctx, "served")
	io.Copy(io.Discard, stdin)
	return l.Close()
}

// childOther serves at the path without this package until its input ends.
func childOther(_ context.Context, path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	fmt.Println("at listening")
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A child is a running role.
type child struct {
	*exec.Cmd
	out *bufio.Reader
	in  io.WriteCloser
}

// publicBinary is a copy of the test binary that other users can run: go test
// keeps its own in a directory of mode 0700.
var publicBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "t")
	return name, os.WriteFile(name, data, 0o755)
})

var binaryDir string

// noSleep saves the second for which the race detector sleeps at exit.
const noSleep = "GORACE=atexit_sleep_ms=0"

// start starts a child, as another user if cred is not nil.
func start(t *testing.T, role, path string, cred *syscall.Credential, env ...string) *child {
	t.Helper()
	self, err := os.Executable()
	if cred != nil {
		self, err = publicBinary()
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir = "/"
	cmd.Env = append([]string{noSleep, "SOCK_TEST_ROLE=" + role, "SOCK_TEST_PATH=" + path}, env...)
	cmd.Stderr = os.Stderr
	if cred != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hung := time.AfterFunc(hang, func() { cmd.Process.Kill() })
	c := &child{cmd, bufio.NewReader(out), in}
	t.Cleanup(func() {
		hung.Stop()
		in.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	return c
}

// line reads one line of the child's output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("the child exited: %q, %v", s, err)
	}
	return strings.TrimSpace(s)
}

// at waits until the child reports a step.
func (c *child) at(t *testing.T, name string) {
	t.Helper()
	if s := c.line(t); s != "at "+name {
		t.Fatalf("want the child at %q, got %q", name, s)
	}
}

// ask sends a line to the child and returns its answer.
func (c *child) ask(t *testing.T, line string) string {
	t.Helper()
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		t.Fatal(err)
	}
	return c.line(t)
}

// end closes the child's input, waits for its exit and returns the rest of its output.
func (c *child) end() (string, error) {
	c.in.Close()
	out, _ := io.ReadAll(c.out)
	return strings.TrimSpace(string(out)), c.Wait()
}

// kill kills the child, which must not have exited before.
func (c *child) kill(t *testing.T) {
	t.Helper()
	c.Process.Kill()
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("was not killed: %v", err)
	}
}

// tempDir returns a directory for sockets. The path of t.TempDir can be too long.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := unix.Chmod(path, uint32(mode)); err != nil {
		t.Fatal(err)
	}
}

func chown(t *testing.T, path string, uid, gid int) {
	t.Helper()
	if err := os.Lchown(path, uid, gid); err != nil {
		t.Fatal(err)
	}
}

// listen listens at a path that is free.
func listen(t *testing.T, path string, spec perms.Spec) *Listener {
	t.Helper()
	l, err := listenAt(path, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// listenAt listens without waiting.
func listenAt(path string, spec perms.Spec) (*Listener, error) {
	return Config{Perms: spec, LockWait: -1, AnswerWait: -1}.Listen(context.Background(), Addr{Unix, path})
}

func check(path string, spec perms.Spec) (note string, err error) {
	return Config{Perms: spec}.Check(context.Background(), Addr{Unix, path})
}

// file returns the FileInfo of a file, which must exist.
func file(t *testing.T, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// same checks that a file was neither replaced nor changed.
func same(t *testing.T, before os.FileInfo, path string) {
	t.Helper()
	after, err := os.Lstat(path)
	switch {
	case before == nil && after == nil:
	case before == nil || after == nil || !os.SameFile(before, after):
		t.Errorf("%s is another file now (%v)", path, err)
	case before.Mode() != after.Mode() || before.Size() != after.Size():
		t.Errorf("%s was %v, is %v", path, before.Mode(), after.Mode())
	}
}

// leftover creates a socket file without a server.
func leftover(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	bound(t, path, unix.SOCK_STREAM, -1, true)
	chmod(t, path, mode)
}

// bound binds a socket without a lock. It listens if backlog is not negative.
func bound(t *testing.T, path string, typ, backlog int, closeIt bool) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, typ, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if backlog >= 0 {
		if err := unix.Listen(fd, backlog); err != nil {
			t.Fatal(err)
		}
	}
	if closeIt {
		unix.Close(fd)
	} else {
		t.Cleanup(func() { unix.Close(fd) })
	}
	return fd
}

// TestOrdinaryUser runs all tests as an ordinary user.
func TestOrdinaryUser(t *testing.T) {
	needRoot(t)
	t.Parallel()
	self, err := publicBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	chown(t, dir, nobody, nobody)
	cmd := exec.Command(self, "-test.v", "-test.skip=^TestStress")
	cmd.Dir = "/"
	cmd.Env = []string{noSleep, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("as user %d: %v\n%s", nobody, err, out)
	}
	if n := strings.Count(string(out), "--- PASS"); n < 30 {
		t.Errorf("as user %d only %d tests passed\n%s", nobody, n, out)
	}
}

// connect connects and closes the connection.
func connect(path string) error {
	c, err := dial(path)
	if err == nil {
		c.Close()
	}
	return err
}
