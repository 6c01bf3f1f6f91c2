package sandbox

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func init() {
	roles["confined"] = childConfined
	roles["threads"] = childThreads
	roles["serve"] = childServe
	roles["lock"] = childLock
	roles["directory"] = childDirectory
}

func TestEnter(t *testing.T) {
	for _, role := range []string{"enter", "confined", "threads", "serve", "lock", "directory"} {
		t.Run(role, func(t *testing.T) {
			if _, err := child(t, role); err != nil {
				t.Error(err)
			}
		})
	}
}

// Enter makes no call that capability mode refuses.
func TestEnterUnderTrap(t *testing.T) {
	proccontrol, err := exec.LookPath("proccontrol")
	if err != nil {
		t.Skip("no proccontrol(1): ", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(proccontrol, "-m", "trapcap", "-s", "enable", self)
	cmd.Env = []string{"SANDBOX_TEST_ROLE=enter"}
	out, err := cmd.CombinedOutput()
	t.Logf("%v\n%s", err, out)
	if err != nil {
		t.Error("Enter failed or was killed")
	}
}

// refused makes sure that a call fails with one of these errors.
func refused(what string, err error, want ...error) error {
	fmt.Printf("%s: %v\n", what, err)
	for _, w := range want {
		if errors.Is(err, w) {
			return nil
		}
	}
	return fmt.Errorf("%s: got %v, want one of %v", what, err, want)
}

// childConfined makes calls that capability mode must refuse.
func childConfined() error {
	pid := os.Getppid()
	if err := Enter(); err != nil {
		return err
	}
	if err := Enter(); err != nil {
		return fmt.Errorf("second call: %w", err)
	}
	_, open := os.Open("/etc/passwd")
	_, dial := net.Dial("tcp4", "127.0.0.1:9")
	_, listen := net.Listen("tcp4", "127.0.0.1:0")
	_, unixDial := net.Dial("unix", "/var/run/log")
	return errors.Join(
		refused("open", open, unix.ECAPMODE),
		refused("dial", dial, unix.ECAPMODE),
		refused("listen", listen, unix.ECAPMODE),
		refused("dial unix", unixDial, unix.ECAPMODE),
		refused("exec", exec.Command("/bin/echo").Run(), unix.ECAPMODE),
		refused("kill", syscall.Kill(pid, 0), unix.ECAPMODE),
		refused("unlink", os.Remove("/tmp/no such file"), unix.ECAPMODE),
		refused("trace control", Untraceable(), unix.ECAPMODE),
	)
}

// childThreads makes sure that all threads are in capability mode.
func childThreads() error {
	if err := Enter(); err != nil {
		return err
	}
	errs := make(chan error)
	var all sync.WaitGroup // so that each goroutine has a thread
	all.Add(20)
	for range 20 {
		go func() {
			runtime.LockOSThread()
			all.Done()
			all.Wait()
			_, err := os.ReadFile("/etc/passwd")
			errs <- err
		}()
	}
	for range 20 {
		if err := <-errs; !errors.Is(err, unix.ECAPMODE) {
			return fmt.Errorf("a goroutine got %v", err)
		}
	}
	fmt.Println("20 goroutines were refused")
	return nil
}

// childServe runs an http.Server with the rights of Serve only.
func childServe() error {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		return err
	}
	ln, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	client, err := net.Dial("unix", filepath.Join(dir, "s"))
	if err != nil {
		return err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := Limit(ln.(*net.UnixListener), Serve); err != nil {
		return err
	}
	if err := Limit(client.(*net.UnixConn), Converse); err != nil {
		return err
	}
	if err := Enter(); err != nil {
		return err
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "got %s", body)
	}))
	client.SetDeadline(time.Now().Add(time.Minute))
	fmt.Fprintf(client, "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
	out, err := io.ReadAll(client)
	fmt.Printf("answer: %q, %v\n", out, err)
	if err != nil || !strings.HasSuffix(string(out), "got hello") {
		return errors.New("no answer")
	}
	rc, err := ln.(*net.UnixListener).SyscallConn()
	if err != nil {
		return err
	}
	var ioctl, setown error
	rc.Control(func(fd uintptr) {
		_, ioctl = unix.IoctlGetInt(int(fd), 0x4004667f) // FIONREAD
		_, setown = unix.FcntlInt(fd, unix.F_SETOWN, os.Getpid())
	})
	return errors.Join(
		refused("ioctl", ioctl, unix.ENOTCAPABLE),
		refused("fcntl F_SETOWN", setown, unix.ENOTCAPABLE),
		refused("a lost right", Limit(ln.(*net.UnixListener), Serve|Flock), unix.ENOTCAPABLE),
		Limit(ln.(*net.UnixListener), Serve), // the same rights are not an error
	)
}

// childLock keeps a lock with a descriptor that has no rights.
func childLock() error {
	f, err := os.CreateTemp("", "ow")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	if err := Limit(f, 0); err != nil {
		return err
	}
	other, err := os.Open(f.Name())
	if err != nil {
		return err
	}
	var st unix.Stat_t
	_, read := f.Read(make([]byte, 1))
	_, write := f.Write([]byte("x"))
	_, fcntl := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	err = errors.Join(
		refused("another lock", unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK),
		refused("read", read, unix.ENOTCAPABLE),
		refused("write", write, unix.ENOTCAPABLE),
		refused("fcntl", fcntl, unix.ENOTCAPABLE),
		refused("fstat", unix.Fstat(int(f.Fd()), &st), unix.ENOTCAPABLE),
		refused("unlock", unix.Flock(int(f.Fd()), unix.LOCK_UN), unix.ENOTCAPABLE),
	)
	if err != nil {
		return err
	}
	// It can still be duplicated and closed.
	dup, err := unix.Dup(int(f.Fd()))
	if err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	f.Close()
	if err := refused("another lock", unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK); err != nil {
		return err
	}
	unix.Close(dup)
	return unix.Flock(int(other.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}

// childDirectory removes a file relative to a directory descriptor.
func childDirectory() error {
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	if err := Limit(f, Lookup|Unlinkat|Fstatat); err != nil {
		return err
	}
	if err := Enter(); err != nil {
		return err
	}
	var st unix.Stat_t
	fd := int(f.Fd())
	_, open := unix.Openat(fd, "x", unix.O_RDONLY, 0)
	return errors.Join(
		refused("openat", open, unix.ENOTCAPABLE),
		refused("fchmodat", unix.Fchmodat(fd, "x", 0o644, unix.AT_SYMLINK_NOFOLLOW), unix.ENOTCAPABLE),
		refused("fstatat ..", unix.Fstatat(fd, "../x", &st, 0), unix.ENOTCAPABLE),
		unix.Fstatat(fd, "x", &st, unix.AT_SYMLINK_NOFOLLOW),
		unix.Unlinkat(fd, "x", 0),
	)
}

// childUntraceable checks the result with procctl(2).
func childUntraceable() error {
	if err := Untraceable(); err != nil {
		return err
	}
	if err := Untraceable(); err != nil {
		return fmt.Errorf("second call: %w", err)
	}
	var status int32
	err := procctl(procTraceStatus, &status)
	fmt.Println("trace status:", status, err)
	if err != nil || status != -1 {
		return errors.New("want trace status -1")
	}
	out, err := exec.Command("/usr/bin/procstat", "-e", fmt.Sprint(os.Getpid())).CombinedOutput()
	fmt.Printf("procstat -e: %v\n%s", err, out)
	return nil
}
