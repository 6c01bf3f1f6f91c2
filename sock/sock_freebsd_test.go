package sock

import (
	"errors"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// FreeBSD refuses connections when the queue is full. A live server counts as dead
// only if it accepts no connection for RefusalWait.
func TestBusyServerIsAlive(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	fd := bound(t, path, unix.SOCK_STREAM, 1, false)
	n := 0
	for ; n < 100; n++ {
		c, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(c)
		if err = unix.Connect(c, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Logf("connection %d: %v", n, err)
			if err != unix.ECONNREFUSED {
				t.Fatal("want ECONNREFUSED")
			}
			break
		}
	}
	if n == 100 {
		t.Fatal("the queue does not fill")
	}
	refusals := 0
	ctx := withSteps(func(name string) {
		if name != "refused" {
			return
		}
		if refusals++; refusals != 3 {
			return
		}
		for range n {
			if c, _, err := unix.Accept(fd); err == nil {
				unix.Close(c)
			}
		}
	})
	if _, err := (Config{Perms: mode(0o600), AnswerWait: -1, RefusalWait: never}).Listen(ctx, Addr{Unix, path}); !errors.Is(err, ErrInUse) || refusals != 3 {
		t.Errorf("after %d refusals: %v", refusals, err)
	}
	if !exists(path) {
		t.Error("a live server's file was removed")
	}
}

// A new file has its directory's group, whatever the mode of the directory.
func TestGroupOfDirectory(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	chown(t, dir, 0, 54321)
	path := filepath.Join(dir, "s")
	listen(t, path, mode(0o660))
	if st, err := lstat(path); err != nil || st.gid != 54321 {
		t.Errorf("group %d, %v, want 54321", st.gid, err)
	}
}

// checkLimited makes sure that the descriptors of a limited listener have no rights
// that Close and Accept do not need.
func checkLimited(t *testing.T, l *Listener) {
	t.Helper()
	all := map[string]syscall.Conn{"socket": l.socket, "directory": l.file.dir, "lock": l.file.lock}
	if l.ln != nil {
		all["duplicate"] = l.ln.(syscall.Conn)
	}
	for name, c := range all {
		rc, err := c.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		rc.Control(func(fd uintptr) {
			rights, err := unix.CapRightsGet(fd)
			if err != nil {
				t.Fatal(err)
			}
			for _, right := range []uint64{unix.CAP_FCHMOD, unix.CAP_FCHMODAT, unix.CAP_CREATE, unix.CAP_BINDAT, unix.CAP_LISTEN, unix.CAP_FTRUNCATE} {
				if has, err := unix.CapRightsIsSet(rights, []uint64{right}); err != nil || has {
					t.Errorf("%s: has right %#x, %v", name, right, err)
				}
			}
		})
	}
}
