//go:build freebsd || linux

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLifeSocketFile(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			dir := newDir(t, cred)
			path := filepath.Join(dir, "s")
			t.Run("a stale file does not stop a start", func(t *testing.T) {
				ln, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				ln.(*net.UnixListener).SetUnlinkOnClose(false)
				ln.Close()
				if cred != nil {
					os.Chown(path, int(cred.Uid), int(cred.Gid))
				}
				s := launch{cred: cred, dir: dir}.start(t)
				s.get("/").wantStatus(t, 200)
				s.stop()
			})
			t.Run("mode and owner", func(t *testing.T) {
				for _, mode := range []string{"0600", "0660", "0666", "0222", "0444", "0000", "0777"} {
					s := launch{cred: cred, dir: dir, args: []string{"-socket-mode", mode}}.start(t)
					fi, err := os.Lstat(path)
					if err != nil {
						t.Fatal(err)
					}
					if got := fmt.Sprintf("%#04o", fi.Mode().Perm()); got != mode || fi.Mode().Type() != os.ModeSocket {
						t.Errorf("-socket-mode %s made %v", mode, fi.Mode())
					}
					s.stop() // also where the mode keeps ourselves out
				}
			})
			t.Run("what is no socket is refused and left alone", func(t *testing.T) {
				for _, kind := range []string{"file", "directory", "link", "fifo", "dangling link"} {
					var err error
					switch kind {
					case "file":
						err = os.WriteFile(path, []byte("precious"), 0o644)
					case "directory":
						err = os.Mkdir(path, 0o755)
					case "link":
						if err = os.WriteFile(path+".target", []byte("precious"), 0o644); err == nil {
							err = os.Symlink(path+".target", path)
						}
					case "fifo":
						err = unix.Mkfifo(path, 0o644)
					case "dangling link":
						err = os.Symlink(path+".nowhere", path)
					}
					if err != nil {
						t.Fatal(err)
					}
					before, _ := os.Lstat(path)
					r := launch{cred: cred, args: []string{"-listen", "unix:" + path}}.run(t)
					if r.status != statusConfig || !strings.Contains(r.stderr, path) || !strings.Contains(r.stderr, "not a socket") {
						t.Errorf("%s: exit status %d, %q", kind, r.status, r.stderr)
					}
					after, err := os.Lstat(path)
					if err != nil || !os.SameFile(before, after) || before.ModTime() != after.ModTime() || before.Mode() != after.Mode() {
						t.Errorf("%s: was %v, is %v, %v", kind, before, after, err)
					}
					os.Remove(path)
				}
			})
			t.Run("a live server's socket is left alone", func(t *testing.T) {
				ln, err := net.Listen("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				if cred != nil {
					os.Chown(path, int(cred.Uid), int(cred.Gid))
				}
				r := launch{cred: cred, args: []string{"-listen", "unix:" + path}}.run(t)
				if r.status != statusInUse || !strings.Contains(r.stderr, "address already in use") {
					t.Errorf("exit status %d, %q", r.status, r.stderr)
				}
				if _, err := net.Dial("unix", path); err != nil {
					t.Errorf("the other server has lost its socket: %v", err)
				}
				ln.Close()
			})
			t.Run("one server at a time", func(t *testing.T) {
				s := launch{cred: cred, dir: dir}.start(t)
				before, _ := os.Lstat(path)
				began := time.Now()
				r := launch{cred: cred, args: []string{"-listen", "unix:" + path}}.run(t)
				if r.status != statusInUse || !strings.Contains(r.stderr, "address already in use") {
					t.Errorf("exit status %d, %q", r.status, r.stderr)
				}
				if d := time.Since(began); d < 4*time.Second || d > 12*time.Second {
					t.Errorf("gave up after %v, want 5s", d)
				}
				after, _ := os.Lstat(path)
				if !os.SameFile(before, after) {
					t.Error("the socket file has been replaced")
				}
				s.get("/").wantStatus(t, 200)
				s.stop()
			})
			t.Run("a successor waits for its predecessor", func(t *testing.T) {
				first := launch{cred: cred, dir: dir}.start(t)
				second := launch{cred: cred, dir: dir}.begin(t)
				time.Sleep(300 * time.Millisecond)
				first.signal(syscall.SIGTERM)
				if st := first.wait(); st != 0 {
					t.Errorf("exit status %d", st)
				}
				second.await("start")
				second.get("/").wantStatus(t, 200)
				second.stop()
			})
			t.Run("a stop while it waits for its predecessor", func(t *testing.T) {
				first := launch{cred: cred, dir: dir}.start(t)
				second := launch{cred: cred, dir: dir}.begin(t)
				time.Sleep(300 * time.Millisecond)
				second.signal(syscall.SIGTERM)
				time.Sleep(100 * time.Millisecond)
				first.signal(syscall.SIGTERM)
				if st := first.wait(); st != 0 {
					t.Errorf("exit status %d", st)
				}
				if st := second.wait(); st != 0 {
					t.Errorf("exit status %d", st)
				}
				if _, err := os.Lstat(path); err == nil {
					t.Error("the socket file has stayed")
				}
			})
			t.Run("a file that somebody else removed", func(t *testing.T) {
				s := launch{cred: cred, dir: dir}.start(t)
				os.Remove(path)
				s.stop()
				if r := s.find("failed to delete socket " + path); len(r) > 0 {
					t.Errorf("record %v", r)
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
				s.signal(syscall.SIGTERM)
				if st := s.wait(); st != 0 {
					t.Errorf("exit status %d", st)
				}
				if _, err := os.Lstat(path); err != nil {
					t.Error("a successor's socket was removed")
				}
			})
			t.Run("racing starts", func(t *testing.T) {
				const n = 6
				var servers []*server
				for range n {
					servers = append(servers, launch{cred: cred, dir: dir}.begin(t))
				}
				// One after the other serves, and each that does is the only one.
				// Who has waited for more than 5 s gives up.
				running := func(s *server) bool { return len(s.find("start")) == 1 && len(s.find("stopped")) == 0 }
				served, gone := 0, 0
				for {
					var now *server
					eventually(t, "a server, or the end of all", func() bool {
						gone = 0
						for _, s := range servers {
							select {
							case <-s.exited:
								gone++
							default:
								if now == nil && running(s) {
									now = s
								}
							}
						}
						return now != nil || gone == n
					})
					if now == nil {
						break
					}
					serving := 0
					for _, s := range servers {
						if running(s) {
							serving++
						}
					}
					if serving != 1 {
						t.Fatalf("%d servers at once", serving)
					}
					served++
					now.get("/").wantStatus(t, 200)
					now.signal(syscall.SIGTERM)
					if st := now.wait(); st != 0 {
						t.Errorf("exit status %d", st)
					}
				}
				for _, s := range servers {
					st := s.wait()
					s.troubles = st == statusInUse
					if st != 0 && st != statusInUse {
						t.Errorf("exit status %d", st)
					}
				}
				if t.Logf("%d of %d have served", served, n); served < 2 {
					t.Error("too few")
				}
				if _, err := os.Lstat(path); err == nil {
					t.Error("a socket file is left")
				}
			})
		})
	}
}

// Who may not delete the file says so, and that is all.
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
	if _, err := os.Lstat(s.path); err != nil {
		t.Errorf("the socket file: %v", err)
	}
	// It is a leftover now, and no harm to the next one.
	os.Chown(dir, int(cred.Uid), int(cred.Gid))
	s = launch{cred: cred, dir: dir}.start(t)
	s.get("/").wantStatus(t, 200)
	s.stop()
}

// Listeners of other kinds, and several at once.
func TestLifeListeners(t *testing.T) {
	t.Parallel()
	t.Run("several", func(t *testing.T) {
		dir := newDir(t, nil)
		s := start(t, "-listen", "unix:"+dir+"/a", "-listen", "unix:"+dir+"/b", "-listen", "tcp4:127.0.0.1:0", "-listen", "tcp6:[::1]:0", "--", "/bin/echo", "hello")
		list := splitList(s.await("start")["listen"])
		if len(list) != 4 {
			t.Fatalf("listeners %q", list)
		}
		for _, l := range list {
			s.addr = dialable(l)
			s.get("/").want(t, 200, "hello\n")
		}
		s.stop()
		for _, l := range list {
			if _, err := dialErr(dialable(l)); err == nil {
				t.Errorf("%s still answers", l)
			}
		}
		for _, name := range []string{"a", "b"} {
			if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
				t.Errorf("%s is left", name)
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
		if _, err := os.Lstat(dir + "/a"); err == nil {
			t.Error("the other socket is left")
		}
	})
	t.Run("inherited", func(t *testing.T) {
		dir := newDir(t, nil)
		path := filepath.Join(dir, "inherited")
		ln, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := ln.(*net.UnixListener).File()
		if err != nil {
			t.Fatal(err)
		}
		s := launch{args: []string{"-listen", "fd:3", "--", "/bin/echo", "hello"}, files: []*os.File{f}}.start(t)
		f.Close()
		ln.(*net.UnixListener).SetUnlinkOnClose(false)
		ln.Close()
		s.addr = "unix:" + path
		s.get("/").want(t, 200, "hello\n")
		s.signal(syscall.SIGHUP)
		s.await("core replaced")
		s.get("/").want(t, 200, "hello\n")
		s.stop()
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("a socket file that is not ours: %v", err)
		}
	})
	t.Run("name of a machine", func(t *testing.T) {
		s := start(t, "-listen", "tcp4:0.0.0.0:0")
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(s.addr, "tcp:"))
		s.addr = "tcp:127.0.0.1:" + port
		host, _ := os.Hostname()
		if a := s.get("/"); !strings.Contains(a.body, "SERVER_NAME='"+host+"'\n") {
			t.Errorf("%q", a.body)
		}
		s.stop()
	})
	t.Run("a name that is too long", func(t *testing.T) {
		limit := 107
		if runtime.GOOS != "linux" {
			limit = 103
		}
		dir := newDir(t, nil)
		path := dir + "/" + strings.Repeat("x", limit-len(dir)-1)
		s := start(t, "-listen", "unix:"+path)
		s.get("/").wantStatus(t, 200)
		s.stop()
		if r := run(t, "-listen", "unix:"+path+"x"); r.status != statusUsage || !strings.Contains(r.stderr, strconv.Itoa(limit)) {
			t.Errorf("exit status %d, %q", r.status, r.stderr)
		}
		if r := run(t, "-listen", "unix:@abstract"); r.status != statusUsage {
			t.Errorf("abstract: exit status %d, %q", r.status, r.stderr)
		}
	})
}
