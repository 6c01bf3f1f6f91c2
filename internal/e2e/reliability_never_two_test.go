//go:build linux

package e2e

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// who asks the server at a path for the pid of its monitor, and whether it
// serves.
func who(t *testing.T, path string) (pid int) {
	t.Helper()
	c := dial(t, "unix:"+path)
	defer c.Close()
	raw, err := c.Conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		var cred *unix.Ucred // of the process that has called listen(2)
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	c.send("%s", get11("/")).answer("GET").wantStatus(t, 200)
	return pid
}

func (s *server) wantServing(when string) {
	s.t.Helper()
	if pid := who(s.t, s.path); pid != s.pid {
		s.t.Errorf("%s: %d serves, not %d", when, pid, s.pid)
	}
}

// hasEnded reports whether the server has exited and been waited for.
func (s *server) hasEnded() bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// lockHeld is the error of a start while another server runs.
const lockHeld = "address already in use: a running server holds "

// gaveUp checks the exit of a start while another server runs.
func (s *server) gaveUp() {
	s.t.Helper()
	st, text := s.wait(), s.logText()
	if st != statusInUse || !strings.Contains(text, lockHeld) {
		s.t.Fatalf("exit status %d, %s", st, text)
	}
	s.errorsExpected = true // its last line is not a record
}

// takeOver waits until a server serves that was started while another one ran.
// If it has given up after 5 s, it is started again.
func (l launch) takeOver(t *testing.T, s *server) *server {
	t.Helper()
	for {
		eventually(t, "a start or an end", func() bool { return s.hasEnded() || len(s.find("start")) > 0 })
		if len(s.find("start")) > 0 {
			return s
		}
		s.gaveUp()
		s = l.begin(t)
	}
}

// If many are started at once on one path, with or without a leftover file,
// only one serves at a time.
func TestRacingStarts(t *testing.T) {
	t.Parallel()
	const n, rounds = 8, 3
	l := launch{dir: newDir(t, nil)}
	ln, err := net.Listen("unix", filepath.Join(l.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	var alive []*server
	for range n {
		alive = append(alive, l.begin(t))
	}
	for round := 1; ; round++ {
		var serving, waiting []*server
		eventually(t, "a server, or the end of all", func() bool {
			serving, waiting = nil, nil
			for _, s := range alive {
				switch {
				case s.hasEnded():
					s.gaveUp()
				case len(s.find("start")) > 0:
					serving = append(serving, s)
				default:
					waiting = append(waiting, s)
				}
			}
			alive = append(serving, waiting...)
			return len(serving) > 0 || len(alive) == 0
		})
		if len(serving) > 1 || round == 1 && len(serving) == 0 {
			t.Fatalf("%d servers on one path", len(serving))
		}
		if len(serving) == 0 {
			break // the others have not waited so long
		}
		s := serving[0]
		s.wantServing("after racing starts")
		if round == rounds {
			for _, w := range waiting {
				w.errorsExpected = true
				w.signal(syscall.SIGKILL)
				w.wait()
			}
			s.wantServing("after the end of the others")
			s.stop()
			break
		}
		s.signal(syscall.SIGTERM)
		if st := s.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		alive = waiting
	}
}

// Whatever happens to a server, another one that waits for it serves
// afterwards, and never before.
func TestNeverTwo(t *testing.T) {
	t.Parallel()
	l := launch{dir: newDir(t, nil)}
	first := l.start(t)
	first.errorsExpected = true
	second := l.begin(t)
	first.wantServing("beside another start")
	syscall.Kill(first.core, syscall.SIGKILL)
	first.await("core died")
	first.wantServing("core killed")
	first.signal(syscall.SIGHUP)
	core, _ := strconv.Atoi(first.await("core replaced")["core"])
	first.wantServing("core replaced")
	if second.hasEnded() {
		second.gaveUp()
	} else if len(second.find("start")) > 0 {
		t.Fatal("two servers on one path")
	}
	first.signal(syscall.SIGKILL)
	first.wait()
	// When a process is killed the system may close the lock just before the
	// socket. The next server waits for that.
	second = l.takeOver(t, second)
	second.wantServing("monitor killed")
	awaitGone(t, core)

	third := l.begin(t)
	second.wantServing("beside another start")
	if len(third.find("start")) > 0 {
		t.Fatal("two servers on one path")
	}
	second.signal(syscall.SIGTERM)
	if st := second.wait(); st != statusOK {
		t.Errorf("exit status %d", st)
	}
	third = l.takeOver(t, third)
	third.wantServing("after a stop")
	third.stop()
}

// mount mounts a small tmpfs until the end of the test.
func mount(t *testing.T, options string) string {
	t.Helper()
	needRoot(t, "it mounts a file system")
	dir := newDir(t, nil)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		missing(t, "mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	os.Chmod(dir, 0o755)
	return dir
}

// These are changes to the directory of a socket.
func TestSocketDirectory(t *testing.T) {
	t.Parallel()
	fails := func(t *testing.T, l launch, status int, says string) {
		t.Helper()
		s := l.begin(t)
		s.errorsExpected = true // its last line is not a record
		if st := s.wait(); st != status || !strings.Contains(s.logText(), says) {
			t.Errorf("exit status %d, %s; want %d, %s", st, s.logText(), status, says)
		}
	}
	t.Run("full disk", func(t *testing.T) {
		// The root directory and two files: no inode is left.
		dir := mount(t, "size=64k,nr_inodes=3")
		for _, name := range []string{"/a", "/b"} {
			if err := os.WriteFile(dir+name, nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		fails(t, launch{dir: dir}, statusOS, "/.s.lock: no space left on device")
		os.Remove(dir + "/a") // room for the lock, not for the socket
		fails(t, launch{dir: dir}, statusOS, "bind "+dir+"/s: no space left on device")
		os.Remove(dir + "/b")
		s := launch{dir: dir, args: []string{"-socket-mode", "0600"}}.start(t)
		if fi, err := os.Lstat(s.path); err != nil || fi.Mode() != os.ModeSocket|0o600 {
			t.Errorf("%v, %v", fi, err)
		}
		s.stop()
	})
	t.Run("read-only", func(t *testing.T) {
		dir := mount(t, "size=64k")
		if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
			t.Fatal(err)
		}
		fails(t, launch{dir: dir}, statusOS, ": read-only file system")
	})
	t.Run("removed", func(t *testing.T) {
		dir := filepath.Join(newDir(t, nil), "d")
		os.Mkdir(dir, 0o755)
		s := launch{dir: dir}.start(t)
		c := dial(t, s.addr)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		// Existing connections work, but there are no new ones, even after a
		// reload.
		c.send("%s", get11("/")).answer("GET").wantStatus(t, 200)
		s.signal(syscall.SIGHUP)
		s.await("core replaced")
		if _, err := dialErr(s.addr); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("a new client: %v", err)
		}
		s.stop()
		if strings.Contains(s.logText(), "failed to delete") {
			t.Errorf("warning about a file that does not exist: %s", s.logText())
		}
		fails(t, launch{dir: dir}, statusConfig, "to fix: install -d")
	})
	t.Run("replaced", func(t *testing.T) {
		dir := filepath.Join(newDir(t, nil), "d")
		os.Mkdir(dir, 0o755)
		old := launch{dir: dir}.start(t)
		os.Rename(dir, dir+".old")
		os.Mkdir(dir, 0o755)
		// Another directory with the same name, and another server in it:
		// neither removes the other's file.
		s := launch{dir: dir}.start(t)
		s.wantServing("beside the one whose directory was moved")
		if pid := who(t, dir+".old/s"); pid != old.pid {
			t.Errorf("%d serves in the directory that was moved, not %d", pid, old.pid)
		}
		old.signal(syscall.SIGTERM)
		if st := old.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		if _, err := os.Lstat(dir + ".old/s"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the file of a server whose directory was moved: %v", err)
		}
		s.wantServing("after the end of the one whose directory was moved")
		s.stop()
	})
}
