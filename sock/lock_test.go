package sock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLocked(t *testing.T) {
	hurry(t)
	path := filepath.Join(tempDir(t), "s")
	c := start(t, "hold", path, "", nil)
	c.line(t)
	before, _ := os.Lstat(path)
	_, err := Listen(Addr{Unix, path}, mode(0o600))
	if !errors.Is(err, ErrLocked) || !errors.Is(err, ErrInUse) {
		t.Errorf("Listen: %v", err)
	}
	want := "listen unix:" + path + ": address already in use: a running server holds " + filepath.Dir(path) + "/.s.lock"
	if err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("got  %v\nwant %s", err, want)
	}
	if _, err := Check(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrLocked) {
		t.Errorf("Check: %v", err)
	}
	// Something else being wrong is not hidden by that.
	chmod(t, filepath.Dir(path), 0o777)
	if _, err := Check(Addr{Unix, path}, mode(0o600)); errors.Is(err, ErrLocked) || !errors.Is(err, ErrUnsafeDir) {
		t.Errorf("Check: %v", err)
	}
	chmod(t, filepath.Dir(path), 0o700)
	same(t, before, path)

	// A killed server's lock is nobody's, at once.
	c.Process.Kill()
	c.Wait()
	if note, err := Check(Addr{Unix, path}, mode(0o600)); err != nil || note == "" {
		t.Errorf("Check: %q, %v", note, err)
	}
	listen(t, path, mode(0o600))
}

func TestPredecessorEnds(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	time.AfterFunc(100*time.Millisecond, func() { l.Close() })
	begun := time.Now()
	next := listen(t, path, mode(0o600))
	if d := time.Since(begun); d < 90*time.Millisecond || d > 2*time.Second {
		t.Errorf("took %v", d)
	}
	talk(t, next)
}

// Whoever finds the lock file can link to it on FreeBSD, and keeps nobody from
// starting by that.
func TestLockFileLinked(t *testing.T) {
	dir := tempDir(t)
	path, lock := filepath.Join(dir, "s"), filepath.Join(dir, ".s.lock")
	for _, m := range []os.FileMode{0o700, 0o750, 0o755} {
		chmod(t, dir, m)
		listen(t, path, mode(0o600)).Close()
		if err := os.Link(lock, filepath.Join(tempDir(t), "link")); err != nil {
			t.Fatal(err)
		}
		if note, err := Check(Addr{Unix, path}, mode(0o600)); err != nil || note != "" {
			t.Errorf("Check in a directory of mode %v: %q, %v", m, note, err)
		}
		l := listen(t, path, mode(0o600))
		talk(t, l)
		// It is a lock as ever.
		if _, err := Check(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrLocked) {
			t.Errorf("Check: %v", err)
		}
		l.Close()
	}
}

// In a sticky directory anybody may have put anything in the lock's place.
func TestLockFileAttacks(t *testing.T) {
	hurry(t)
	for _, tt := range []struct {
		name string
		root bool
		put  func(t *testing.T, lock, other string)
	}{
		{"symbolic link", false, func(t *testing.T, lock, other string) {
			if err := os.Symlink(other, lock); err != nil {
				t.Fatal(err)
			}
		}},
		{"dangling link", false, func(t *testing.T, lock, other string) {
			if err := os.Symlink(other+"2", lock); err != nil {
				t.Fatal(err)
			}
		}},
		{"hard link", false, func(t *testing.T, lock, other string) {
			if err := os.Link(other, lock); err != nil {
				t.Fatal(err)
			}
		}},
		{"named pipe", false, func(t *testing.T, lock, other string) {
			if err := unix.Mkfifo(lock, 0o666); err != nil {
				t.Fatal(err)
			}
		}},
		{"directory", false, func(t *testing.T, lock, other string) {
			if err := os.Mkdir(lock, 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		{"socket", false, func(t *testing.T, lock, other string) { leftover(t, lock, 0o777) }},
		{"another owner", true, func(t *testing.T, lock, other string) {
			if err := os.WriteFile(lock, nil, 0o666); err != nil {
				t.Fatal(err)
			}
			chown(t, lock, nobody, nobody)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root {
				needRoot(t)
			}
			dir := tempDir(t)
			chmod(t, dir, 0o1777)
			path, lock, other := filepath.Join(dir, "s"), filepath.Join(dir, ".s.lock"), filepath.Join(dir, "other")
			if err := os.WriteFile(other, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
			tt.put(t, lock, other)
			before, _ := os.Lstat(lock)
			precious, _ := os.Lstat(other)
			if _, err := Check(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrUnsafeLock) || !errors.Is(err, ErrUnsafeDir) {
				t.Errorf("Check: %v", err)
			}
			if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrUnsafeLock) {
				t.Errorf("Listen: %v", err)
			}
			same(t, before, lock)
			same(t, precious, other)
			if exists(path) || exists(other+"2") {
				t.Error("something was made")
			}
		})
	}
}

// Whoever tidies the lock file away does not let two in.
func TestLockFileRemoved(t *testing.T) {
	between := func(t *testing.T, again bool) {
		path := filepath.Join(tempDir(t), "s")
		lock := filepath.Join(filepath.Dir(path), ".s.lock")
		times := 0
		stepHook = func(name string) {
			if name == "lock opened" {
				if times++; times == 1 {
					os.Remove(lock)
					if again {
						os.WriteFile(lock, nil, 0o600)
					}
				}
			}
		}
		defer func() { stepHook = nil }()
		l := listen(t, path, mode(0o600))
		if times != 2 {
			t.Errorf("opened %d times", times)
		}
		st, err := fstat(l.LockFile())
		if err != nil || st.links != 1 {
			t.Errorf("the lock is on a file that is gone (%v)", err)
		}
	}
	t.Run("between open and lock", func(t *testing.T) { between(t, false) })
	t.Run("and made anew", func(t *testing.T) { between(t, true) })
	t.Run("while held", func(t *testing.T) {
		path := filepath.Join(tempDir(t), "s")
		l := listen(t, path, mode(0o600))
		os.Remove(filepath.Join(filepath.Dir(path), ".s.lock"))
		if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v", err)
		}
		if _, _, _, err := l.Info(); err != nil {
			t.Errorf("the server's file: %v", err)
		}
	})
}

func TestOpenLockCreatesNothing(t *testing.T) {
	p, err := openPlace(filepath.Join(tempDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer p.dir.Close()
	if _, err := p.openLock(unix.O_RDONLY); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if held, err := p.lockHeld(); held || err != nil {
		t.Error(held, err)
	}
	// What a process under a strict umask leaves if it is killed at once.
	if err := os.WriteFile(p.join(p.lockName()), nil, 0); err != nil {
		t.Fatal(err)
	}
	if note, err := Check(Addr{Unix, p.path}, mode(0o600)); note != "" || err != nil {
		t.Error(note, err)
	}
}
