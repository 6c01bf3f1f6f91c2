//go:build freebsd || linux

package e2e

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// These tests check the life of the socket file with the binary. The tests of
// package sock check each step.

// giveAway makes the user that onewake runs as the owner of a file.
func giveAway(t *testing.T, path string, cred *syscall.Credential) {
	t.Helper()
	if cred == nil {
		return
	}
	if err := os.Lchown(path, int(cred.Uid), int(cred.Gid)); err != nil {
		t.Fatal(err)
	}
}

// leftover makes a socket file without a server.
func leftover(t *testing.T, path string, cred *syscall.Credential) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	giveAway(t, path, cred)
}

func wantGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("%s: %v, want none", path, err)
	}
}

// wantSame checks that the file at a path has not been replaced.
func wantSame(t *testing.T, path string, before os.FileInfo) {
	t.Helper()
	after, err := os.Lstat(path)
	if err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() || !before.ModTime().Equal(after.ModTime()) {
		t.Errorf("%s: was %v, is %v, %v", path, before, after, err)
	}
}

func lstat(t *testing.T, path string) os.FileInfo {
	t.Helper()
	fi, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi
}

func TestLifeSocketFile(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			dir := newDir(t, cred)
			path := filepath.Join(dir, "s")
			t.Run("a stale file does not stop a start", func(t *testing.T) {
				leftover(t, path, cred)
				s := launch{cred: cred, dir: dir, args: []string{"-socket-mode", "0620"}}.start(t)
				if fi := lstat(t, path); fi.Mode() != os.ModeSocket|0o620 {
					t.Errorf("-socket-mode 0620 made %v", fi.Mode())
				}
				if fi := lstat(t, dir+"/.s.lock"); fi.Mode() != 0o600 {
					t.Errorf("the lock file: %v", fi.Mode())
				}
				s.get("/").wantStatus(t, 200)
				s.stop()
			})
			t.Run("a stop where the mode keeps ourselves out", func(t *testing.T) {
				s := launch{cred: cred, dir: dir, args: []string{"-socket-mode", "0000"}}.start(t)
				if fi := lstat(t, path); fi.Mode() != os.ModeSocket {
					t.Errorf("-socket-mode 0000 made %v", fi.Mode())
				}
				s.stop()
			})
			t.Run("what is no socket is refused and left alone", func(t *testing.T) {
				if err := os.WriteFile(path, []byte("precious"), 0o644); err != nil {
					t.Fatal(err)
				}
				before := lstat(t, path)
				r := launch{cred: cred, args: []string{"-listen", "unix:" + path}}.run(t)
				if r.status != statusConfig || !strings.Contains(r.stderr, path+": not a socket") {
					t.Errorf("%+v", r)
				}
				wantSame(t, path, before)
				os.Remove(path)
			})
			t.Run("a live server's socket is left alone", func(t *testing.T) {
				ln, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				giveAway(t, path, cred)
				before := lstat(t, path)
				r := launch{cred: cred, args: []string{"-listen", "unix:" + path}}.run(t)
				if r.status != statusInUse || !strings.Contains(r.stderr, "address already in use") {
					t.Errorf("%+v", r)
				}
				wantSame(t, path, before)
				c, err := net.Dial("unix", path)
				if err != nil {
					t.Fatalf("the other server has lost its socket: %v", err)
				}
				c.Close()
			})
			t.Run("a file that somebody else removed", func(t *testing.T) {
				s := launch{cred: cred, dir: dir}.start(t)
				os.Remove(path)
				s.stop()
				if log := s.logText(); strings.Contains(log, "failed to delete socket") {
					t.Errorf("a failure is logged for a file that does not exist:\n%s", log)
				}
			})
			t.Run("a successor's file", func(t *testing.T) {
				s := launch{cred: cred, dir: dir}.start(t)
				os.Remove(path)
				ln, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				before := lstat(t, path)
				s.signal(syscall.SIGTERM)
				if st := s.wait(); st != 0 {
					t.Errorf("exit status %d", st)
				}
				wantSame(t, path, before)
			})
		})
	}
}

// lockUser is the user of the tests of the lock: an ordinary user.
func lockUser(t *testing.T) *syscall.Credential {
	if os.Geteuid() == 0 {
		return nobody(t)
	}
	return nil
}

// A lockWatch notices when the next process has opened the lock file of a
// socket, because it then sets the file's mode. At that time it has set up
// signals and the log.
type lockWatch struct {
	t    *testing.T
	path string
}

func watchLock(t *testing.T, dir string) lockWatch {
	t.Helper()
	w := lockWatch{t, filepath.Join(dir, ".s.lock")}
	if err := os.Chmod(w.path, 0o640); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w lockWatch) await() {
	w.t.Helper()
	eventually(w.t, "a process opens "+w.path, func() bool { return lstat(w.t, w.path).Mode() == 0o600 })
}

// While one server serves, the next one waits for the lock and changes nothing.
func TestLifeSuccessor(t *testing.T) {
	t.Parallel()
	cred := lockUser(t)
	first := launch{cred: cred, dir: newDir(t, cred)}.start(t)
	before := lstat(t, first.path)
	w := watchLock(t, first.dir)
	second := launch{cred: cred, dir: first.dir}.begin(t)
	w.await()
	// While it is stopped by SIGSTOP, its patience does not run out.
	stopProcess(t, second.pid)
	wantSame(t, first.path, before)
	first.get("/").wantStatus(t, 200)
	first.signal(syscall.SIGTERM)
	if st := first.wait(); st != 0 {
		t.Errorf("exit status %d", st)
	}
	wantGone(t, first.path)
	second.signal(syscall.SIGCONT)
	second.await("start")
	second.get("/").wantStatus(t, 200)
	second.stop()
}

// A stop while waiting for the lock.
func TestLifeStopWhileWaiting(t *testing.T) {
	t.Parallel()
	cred := lockUser(t)
	dir := newDir(t, cred)
	lock, err := os.OpenFile(dir+"/.s.lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	giveAway(t, lock.Name(), cred)
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	w := watchLock(t, dir)
	s := launch{cred: cred, dir: dir}.begin(t)
	w.await()
	wantGone(t, s.path)
	s.signal(syscall.SIGTERM) // before it can get the lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if st := s.wait(); st != 0 {
		t.Errorf("exit status %d", st)
	}
	wantGone(t, s.path)
}

func hasExited(s *server) bool {
	select {
	case <-s.exited:
		return true
	default:
		return false
	}
}

// Of several starts at once one serves, and the next one serves after it. The
// tests of package sock and the stress tests do this with many.
func TestLifeRacingStarts(t *testing.T) {
	t.Parallel()
	const n = 3
	cred := lockUser(t)
	dir := newDir(t, cred)
	path := filepath.Join(dir, "s")
	leftover(t, path, cred) // each would remove it
	var waiting []*server
	for range n {
		waiting = append(waiting, launch{cred: cred, dir: dir}.begin(t))
	}
	started := func(s *server) bool { return len(s.find("start")) > 0 }
	served := 0
	for len(waiting) > 0 {
		i := -1
		eventually(t, "a start, or an end", func() bool {
			i = slices.IndexFunc(waiting, func(s *server) bool { return started(s) || hasExited(s) })
			return i >= 0
		})
		s := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		if !started(s) { // has given up
			s.errorsExpected = true
			if st := s.wait(); st != statusInUse {
				t.Errorf("exit status %d", st)
			}
			continue
		}
		served++
		before := lstat(t, path)
		s.get("/").wantStatus(t, 200)
		if slices.ContainsFunc(waiting, started) {
			t.Error("two servers at once")
		}
		wantSame(t, path, before)
		s.signal(syscall.SIGTERM)
		if st := s.wait(); st != 0 {
			t.Errorf("exit status %d", st)
		}
	}
	if t.Logf("%d of %d have served", served, n); served == 0 {
		t.Error("no server has served")
	}
	wantGone(t, path)
}

// A socket file that cannot be deleted for lack of permission is a warning.
func TestLifeCannotDelete(t *testing.T) {
	t.Parallel()
	needRoot(t, "it takes a directory away from its user")
	cred := nobody(t)
	dir := newDir(t, cred)
	s := launch{cred: cred, dir: dir}.start(t)
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	s.signal(syscall.SIGTERM)
	if st := s.wait(); st != 0 {
		t.Errorf("exit status %d, want 0", st)
	}
	warned := 0
	for _, r := range s.records {
		if strings.HasPrefix(r["msg"], "failed to delete socket "+s.path) && r["level"] == "WARN" {
			warned++
		}
	}
	if warned != 1 {
		t.Errorf("%d warnings that the file could not be deleted, want 1", warned)
	}
	lstat(t, s.path)
}

// Listeners of each family, and several at once. The test page shows their
// names.
func TestLifeListeners(t *testing.T) {
	t.Parallel()
	t.Run("several", func(t *testing.T) {
		dir := newDir(t, nil)
		// The longest path.
		limit := len(unix.RawSockaddrUnix{}.Path) - 1
		long := dir + "/" + strings.Repeat("x", limit-len(dir)-1)
		host, err := os.Hostname()
		if err != nil {
			t.Fatal(err)
		}
		listeners := []struct{ name, listen, host, peer string }{
			{"unix", "unix:" + dir + "/a", host, "<unix>"},
			{"long path", "unix:" + long, host, "<unix>"},
			{"IPv4", "tcp4:127.0.0.1:0", "127.0.0.1", "127.0.0.1"},
			{"every address", "tcp4:0.0.0.0:0", host, "127.0.0.1"},
			{"IPv6", "tcp6:[::1]:0", "[::1]", "::1"},
		}
		if ln, err := net.Listen("tcp6", "[::1]:0"); err == nil {
			ln.Close()
		} else {
			listeners = listeners[:4]
			t.Run("IPv6", func(t *testing.T) { missing(t, "no IPv6 here: %v", err) })
		}
		var args []string
		for _, l := range listeners {
			args = append(args, "-listen", l.listen)
		}
		s := start(t, args...)
		list := splitList(s.await("start")["listen"])
		if len(list) != len(listeners) {
			t.Fatalf("listeners %q", list)
		}
		for i, l := range listeners {
			t.Run(l.name, func(t *testing.T) {
				s.addr = dialable(strings.Replace(list[i], "0.0.0.0", "127.0.0.1", 1))
				port := "0"
				if !strings.HasPrefix(l.listen, "unix:") {
					_, port, _ = net.SplitHostPort(strings.TrimPrefix(s.addr, "tcp:"))
				}
				body := s.get("/").body
				for _, want := range []string{"SERVER_NAME='" + l.host + "'", "SERVER_PORT='" + port + "'", "REMOTE_ADDR='" + l.peer + "'"} {
					if !strings.Contains(body, "\n"+want+"\n") {
						t.Errorf("no %s in\n%s", want, body)
					}
				}
			})
		}
		s.stop()
		for _, l := range listeners {
			if path, ok := strings.CutPrefix(l.listen, "unix:"); ok {
				wantGone(t, path)
			}
		}
	})
	t.Run("one that cannot be had", func(t *testing.T) {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		dir := newDir(t, nil)
		r := run(t, "-listen", "unix:"+dir+"/a", "-listen", "tcp4:"+ln.Addr().String())
		if r.status != statusInUse || !strings.Contains(r.stderr, ln.Addr().String()) {
			t.Errorf("exit status %d, %q", r.status, r.stderr)
		}
		wantGone(t, dir+"/a")
	})
	t.Run("inherited", func(t *testing.T) {
		path := filepath.Join(newDir(t, nil), "inherited")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		s := launch{args: []string{"-listen", "fd:3"}, files: []*os.File{f}}.start(t)
		f.Close()
		ln.(*net.UnixListener).SetUnlinkOnClose(false)
		ln.Close()
		s.addr = "unix:" + path
		s.get("/").wantStatus(t, 200)
		s.signal(syscall.SIGHUP)
		s.await("core replaced")
		s.get("/").wantStatus(t, 200)
		s.stop()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("a socket file that is not ours: %v", err)
		}
	})
}
