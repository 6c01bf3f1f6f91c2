package sock

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// unchanged leaves mode and owner alone.
var unchanged = perms.Spec{Mode: -1, UID: -1, GID: -1}

func mode(m int) perms.Spec { return perms.Spec{Mode: m, UID: -1, GID: -1} }

// nobody is an ordinary user and group for children of root.
const nobody = 65534

// TestMain lets the test binary pose as another process: as one of another
// user, or one that gets killed.
func TestMain(m *testing.M) {
	role := os.Getenv("SOCK_TEST_ROLE")
	if role == "" {
		code := m.Run()
		if binaryDir != "" {
			os.RemoveAll(binaryDir)
		}
		os.Exit(code)
	}
	if err := roles[role](os.Getenv("SOCK_TEST_PATH"), os.Getenv("SOCK_TEST_ARG")); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

var roles = map[string]func(path, arg string) error{
	"connect": childConnect,
	"kill":    childKill,
	"race":    childRace,
	"hold":    childHold,
	"other":   childOther,
}

// Roles lets the examples, which are in a package of their own, add theirs.
var Roles = roles

// childConnect connects, says so, and stays until its input ends.
func childConnect(path, _ string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Println("connected", os.Getpid())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// childKill listens and kills itself at a step.
func childKill(path, at string) error {
	stepHook = func(name string) {
		if name == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			time.Sleep(time.Minute)
		}
	}
	syscall.Umask(0o777)
	l, err := Listen(Addr{Unix, path}, mode(0o060))
	if err != nil {
		return err
	}
	if at == "served" {
		step("served")
	}
	return l.Close()
}

// childRace listens, and proves that it is alone.
func childRace(path, _ string) error {
	for range 3 {
		l, err := Listen(Addr{Unix, path}, mode(0o600))
		if err != nil {
			return err
		}
		claim := filepath.Join(filepath.Dir(path), "claim")
		if err := os.Mkdir(claim, 0o700); err != nil {
			return fmt.Errorf("not alone: %w", err)
		}
		c, err := net.Dial("unix", path)
		if err != nil {
			return err
		}
		c.Close()
		time.Sleep(2 * time.Millisecond)
		if err := os.Remove(claim); err != nil {
			return err
		}
		if err := l.Close(); err != nil {
			return err
		}
	}
	return nil
}

// childHold listens until its input ends.
func childHold(path, _ string) error {
	l, err := Listen(Addr{Unix, path}, mode(0o600))
	if err != nil {
		return err
	}
	fmt.Println("listening")
	io.Copy(io.Discard, os.Stdin)
	return l.Close()
}

// childOther is a program that knows nothing of this package, and serves at the
// path without much care until its input ends.
func childOther(path, _ string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	fmt.Println("listening")
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
	in  io.Closer
}

// theBinary is a copy of the test binary that other users may run: go test
// keeps its own in a directory of mode 0700.
var theBinary = sync.OnceValues(func() (string, error) {
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

// noSleep spares the second for which a program under the race detector sleeps
// when it ends.
const noSleep = "GORACE=atexit_sleep_ms=0"

func start(t *testing.T, role, path, arg string, cred *syscall.Credential) *child {
	t.Helper()
	self, err := os.Executable()
	if cred != nil {
		self, err = theBinary()
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Dir = "/"
	cmd.Env = []string{noSleep, "SOCK_TEST_ROLE=" + role, "SOCK_TEST_PATH=" + path, "SOCK_TEST_ARG=" + arg}
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
	c := &child{cmd, bufio.NewReader(out), in}
	t.Cleanup(func() { in.Close(); cmd.Process.Kill(); cmd.Wait() })
	return c
}

// line reads one line of the child's output.
func (c *child) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Fatalf("child ended: %v", err)
	}
	return strings.TrimSpace(s)
}

// end lets the child finish, in 20 s at most, and returns the rest of its output.
func (c *child) end() (string, error) {
	defer time.AfterFunc(20*time.Second, func() { c.Process.Kill() }).Stop()
	c.in.Close()
	out, _ := io.ReadAll(c.out)
	return strings.TrimSpace(string(out)), c.Wait()
}

// tempDir is a directory for sockets. t.TempDir can be too long for their paths.
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
		t.Skip("only root can take on other users")
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

func listen(t *testing.T, path string, spec perms.Spec) *Listener {
	t.Helper()
	l, err := Listen(Addr{Unix, path}, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func hurry(t *testing.T) {
	old := lockPatience
	lockPatience = 50 * time.Millisecond
	t.Cleanup(func() { lockPatience = old })
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// TestOrdinaryUser runs the tests that need no other user as an ordinary one.
func TestOrdinaryUser(t *testing.T) {
	needRoot(t)
	self, err := theBinary()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	chown(t, dir, nobody, nobody)
	cmd := exec.Command(self, "-test.v")
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
