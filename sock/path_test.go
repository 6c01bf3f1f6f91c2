package sock

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// Listen and Check with different files at the path.
func TestPath(t *testing.T) {
	for _, tt := range []struct {
		name string
		put  func(t *testing.T, path string)
		kind error  // nil: replaced
		note string // part of Check's note
	}{
		{"nothing", func(*testing.T, string) {}, nil, ""},
		{"leftover", func(t *testing.T, p string) { leftover(t, p, 0o755) }, nil, "leftover"},
		{"leftover of mode 0060", func(t *testing.T, p string) { leftover(t, p, 0o060) }, nil, "leftover"},
		{"leftover of mode 0", func(t *testing.T, p string) { leftover(t, p, 0) }, nil, "leftover"},
		{"leftover, datagrams", func(t *testing.T, p string) { bound(t, p, unix.SOCK_DGRAM, -1, true) }, nil, "leftover"},
		{"regular file", func(t *testing.T, p string) {
			if err := os.WriteFile(p, []byte("precious"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"directory", func(t *testing.T, p string) {
			if err := os.Mkdir(p, 0o755); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"named pipe", func(t *testing.T, p string) {
			if err := unix.Mkfifo(p, 0o644); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"dangling link", func(t *testing.T, p string) {
			if err := os.Symlink("nowhere", p); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"link to a leftover", func(t *testing.T, p string) {
			leftover(t, p+"2", 0o755)
			if err := os.Symlink(p+"2", p); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"link to a live socket", func(t *testing.T, p string) {
			bound(t, p+"2", unix.SOCK_STREAM, 5, false)
			if err := os.Symlink(p+"2", p); err != nil {
				t.Fatal(err)
			}
		}, ErrNotSocket, ""},
		{"live server", func(t *testing.T, p string) { bound(t, p, unix.SOCK_STREAM, 5, false) }, ErrInUse, ""},
		{"live server, datagrams", func(t *testing.T, p string) { bound(t, p, unix.SOCK_DGRAM, -1, false) }, ErrInUse, ""},
		{"live server of mode 0060", func(t *testing.T, p string) {
			bound(t, p, unix.SOCK_STREAM, 5, false)
			chmod(t, p, 0o060)
		}, ErrInUse, "leftover"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tempDir(t)
			path := filepath.Join(dir, "s")
			tt.put(t, path)
			before, _ := os.Lstat(path)

			note, err := check(path, mode(0o600))
			// Check cannot probe this one, and reports no error.
			unprobed := strings.HasSuffix(tt.name, "of mode 0060") && os.Geteuid() != 0
			if !errors.Is(err, tt.kind) && !unprobed || errors.Is(err, ErrLocked) || (err == nil) != (tt.kind == nil || unprobed) {
				t.Errorf("Check: %v", err)
			}
			if (tt.kind == nil || unprobed) && (!strings.Contains(note, tt.note) || (note == "") != (tt.note == "")) {
				t.Errorf("Check: note %q", note)
			}
			if exists(filepath.Join(dir, ".s.lock")) {
				t.Error("Check created a lock file")
			}
			same(t, before, path)

			l, err := listenAt(path, mode(0o600))
			if tt.kind != nil {
				if !errors.Is(err, tt.kind) || !strings.HasPrefix(err.Error(), "listen unix:"+path+": ") {
					t.Errorf("Listen: %v", err)
				}
				if tt.kind == ErrInUse && !strings.Contains(err.Error(), ": another server answers") {
					t.Errorf("Listen: %v", err)
				}
				same(t, before, path)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			talk(t, l)
		})
	}
}

// Check reports all problems at once.
func TestCheckReportsAll(t *testing.T) {
	dir := tempDir(t)
	path := filepath.Join(dir, "s")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("x", filepath.Join(dir, ".s.lock")); err != nil {
		t.Fatal(err)
	}
	chmod(t, dir, 0o777)
	spec := perms.Spec{UID: perms.Set(12345), GID: perms.Set(54321)}
	_, err := check(path, spec)
	for _, want := range []error{ErrNotSocket, ErrUnsafeDir, ErrUnsafeLock} {
		if !errors.Is(err, want) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	if os.Geteuid() != 0 && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v is not ErrPermission", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %v", err)
	}
}
