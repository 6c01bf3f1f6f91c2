package sock

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLockReleased(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	l := listen(t, path, mode(0o600))
	ctx := withSteps(func(name string) {
		if name == "waiting" {
			l.Close()
		}
	})
	next, err := Config{Perms: mode(0o600), LockWait: never}.Listen(ctx, Addr{Unix, path})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	talk(t, next)
}

// On FreeBSD any user who finds the lock file can link to it. That must not prevent
// a start.
func TestLockFileLinked(t *testing.T) {
	dir := tempDir(t)
	path, lock := filepath.Join(dir, "s"), filepath.Join(dir, ".s.lock")
	for _, m := range []os.FileMode{0o700, 0o750, 0o755} {
		chmod(t, dir, m)
		listen(t, path, mode(0o600)).Close()
		if err := os.Link(lock, filepath.Join(tempDir(t), "link")); err != nil {
			t.Fatal(err)
		}
		if note, err := check(path, mode(0o600)); err != nil || note != "" {
			t.Errorf("Check in a directory of mode %v: %q, %v", m, note, err)
		}
		l := listen(t, path, mode(0o600))
		talk(t, l)
		// The lock still works.
		if _, err := check(path, mode(0o600)); !errors.Is(err, ErrLocked) {
			t.Errorf("Check: %v", err)
		}
		l.Close()
	}
}

// In a sticky directory another user may create something under the name of the
// lock file, before the start or between stat(2) and open(2).
func TestLockFileAttacks(t *testing.T) {
	for name, attack := range map[string]func(lock, other string) error{
		"symbolic link": func(lock, other string) error { return os.Symlink(other, lock) },
		"dangling link": func(lock, other string) error { return os.Symlink(other+"2", lock) },
		"hard link":     func(lock, other string) error { return os.Link(other, lock) },
		"named pipe":    func(lock, _ string) error { return unix.Mkfifo(lock, 0o600) },
		"directory":     func(lock, _ string) error { return os.Mkdir(lock, 0o700) },
		"socket":        func(lock, _ string) error { bound(t, lock, unix.SOCK_STREAM, -1, true); return nil },
		"another owner": func(lock, _ string) error {
			return errors.Join(os.WriteFile(lock, nil, 0o666), os.Chown(lock, nobody, nobody))
		},
	} {
		for _, when := range []string{"before", "between"} {
			t.Run(name+", "+when, func(t *testing.T) {
				if name == "another owner" {
					needRoot(t)
				}
				dir := tempDir(t)
				chmod(t, dir, 0o1777)
				path, lock, other := filepath.Join(dir, "s"), filepath.Join(dir, ".s.lock"), filepath.Join(dir, "other")
				if err := os.WriteFile(other, []byte("precious"), 0o644); err != nil {
					t.Fatal(err)
				}
				precious := file(t, other)
				want, at := error(ErrUnsafeLock), "walked"
				if when == "between" {
					want, at = nil, "lock seen" // open(2) may fail with another error
				}
				var put os.FileInfo
				attackAt := func(name string) {
					if name != at {
						return
					}
					os.Remove(lock)
					if err := attack(lock, other); err != nil {
						t.Error(err)
					}
					put = file(t, lock)
				}
				for _, listens := range []bool{true, false} {
					if err := errors.Join(os.RemoveAll(lock), os.WriteFile(lock, nil, 0o600)); err != nil {
						t.Fatal(err)
					}
					_, err := Config{}.Check(withSteps(attackAt), Addr{Unix, path})
					if listens {
						_, err = Config{LockWait: -1}.Listen(withSteps(attackAt), Addr{Unix, path})
					}
					if err == nil || errors.Is(err, ErrInUse) || want != nil && !errors.Is(err, want) {
						t.Errorf("Listen is %v: %v", listens, err)
					}
					same(t, precious, other)
					same(t, put, lock)
				}
				if exists(path) || exists(other+"2") {
					t.Error("a file was created")
				}
			})
		}
	}
}

// Two servers cannot start even if somebody removes the lock file.
func TestLockFileRemoved(t *testing.T) {
	between := func(t *testing.T, again bool) {
		path := filepath.Join(tempDir(t), "s")
		lock := filepath.Join(filepath.Dir(path), ".s.lock")
		times := 0
		ctx := withSteps(func(name string) {
			if name == "lock opened" {
				if times++; times == 1 {
					os.Remove(lock)
					if again {
						os.WriteFile(lock, nil, 0o600)
					}
				}
			}
		})
		l, err := Config{Perms: mode(0o600), LockWait: -1}.Listen(ctx, Addr{Unix, path})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if times != 2 {
			t.Errorf("opened %d times", times)
		}
		st, err := fstat(l.LockFile())
		if err != nil || st.links != 1 {
			t.Errorf("the lock is on a removed file (%v)", err)
		}
	}
	t.Run("between open and lock", func(t *testing.T) { between(t, false) })
	t.Run("and created again", func(t *testing.T) { between(t, true) })
	t.Run("while held", func(t *testing.T) {
		path := filepath.Join(tempDir(t), "s")
		listen(t, path, mode(0o600))
		os.Remove(filepath.Join(filepath.Dir(path), ".s.lock"))
		if _, err := listenAt(path, mode(0o600)); !errors.Is(err, ErrInUse) {
			t.Errorf("got %v", err)
		}
		if !exists(path) {
			t.Error("the server's file was removed")
		}
	})
}

// A server under a strict umask was killed between open(2) and fchmod(2).
func TestLockFileWithoutMode(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	if err := os.WriteFile(filepath.Dir(path)+"/.s.lock", nil, 0); err != nil {
		t.Fatal(err)
	}
	if note, err := check(path, mode(0o600)); note != "" || err != nil {
		t.Error(note, err)
	}
	listen(t, path, mode(0o600))
}
