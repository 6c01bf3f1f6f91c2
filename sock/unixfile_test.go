package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// leftover makes a socket file that nobody listens on.
func leftover(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	bound(t, path, unix.SOCK_STREAM, -1, true)
	chmod(t, path, mode)
}

// bound binds a socket, as a program that knows nothing of the lock would. It
// listens if backlog is not negative.
func bound(t *testing.T, path string, typ, backlog int, closeIt bool) {
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
}

// What stands at the path, what Listen and Check make of it.
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

			note, err := Check(Addr{Unix, path}, mode(0o600))
			// A file that we cannot ask without a change of its mode gets
			// the benefit of the doubt.
			mayNotAsk := strings.HasSuffix(tt.name, "of mode 0060") && os.Geteuid() != 0
			if !errors.Is(err, tt.kind) && !mayNotAsk || errors.Is(err, ErrLocked) || (err == nil) != (tt.kind == nil || mayNotAsk) {
				t.Errorf("Check: %v", err)
			}
			if (tt.kind == nil || mayNotAsk) && (!strings.Contains(note, tt.note) || (note == "") != (tt.note == "")) {
				t.Errorf("Check: note %q", note)
			}
			if exists(filepath.Join(dir, ".s.lock")) {
				t.Error("Check made a lock file")
			}
			same(t, before, path)

			l, err := Listen(Addr{Unix, path}, mode(0o600))
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

// same checks that a file was not replaced or changed.
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

func TestDirectory(t *testing.T) {
	for _, tt := range []struct {
		name string
		mode os.FileMode
		err  string
	}{
		{"ours alone", 0o700, ""},
		{"others look", 0o755, ""},
		{"set-gid", 0o2750, ""},
		{"group writes", 0o770, "chmod g-w "},
		{"others write", 0o707, "chmod o-w "},
		{"all write", 0o777, "chmod go-w "},
		{"sticky", 0o1777, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tempDir(t)
			// On the BSDs it has the group of /tmp, and only members may set
			// the set-gid bit.
			chown(t, dir, -1, os.Getegid())
			chmod(t, dir, tt.mode)
			path := filepath.Join(dir, "s")
			_, cerr := Check(Addr{Unix, path}, mode(0o600))
			l, err := Listen(Addr{Unix, path}, mode(0o600))
			if err == nil {
				l.Close()
			}
			for _, err := range []error{cerr, err} {
				if tt.err == "" && err != nil {
					t.Error(err)
				}
				if tt.err != "" && (!errors.Is(err, ErrUnsafeDir) || errors.Is(err, ErrUnsafeLock) || !strings.Contains(err.Error(), tt.err+dir)) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	try := func(name, path string, want error, text string) {
		t.Run(name, func(t *testing.T) {
			_, cerr := Check(Addr{Unix, path}, mode(0o600))
			l, err := Listen(Addr{Unix, path}, mode(0o600))
			if err == nil {
				l.Close()
			}
			for _, err := range []error{cerr, err} {
				if want == nil && err != nil || !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), text) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	dir := tempDir(t)
	try("missing", filepath.Join(dir, "no", "s"), fs.ErrNotExist, "install -d -o "+perms.UserName(os.Geteuid())+" -m 0750 "+dir+"/no")
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	try("not a directory", filepath.Join(dir, "file", "s"), unix.ENOTDIR, dir+"/file")
	if err := os.Mkdir(filepath.Join(dir, "real"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	try("symbolic link", filepath.Join(dir, "link", "s"), nil, "")
	if os.Geteuid() == 0 {
		theirs := filepath.Join(dir, "theirs")
		if err := os.Mkdir(theirs, 0o700); err != nil {
			t.Fatal(err)
		}
		chown(t, theirs, nobody, nobody)
		try("somebody else's", filepath.Join(theirs, "s"), ErrUnsafeDir, "chown "+perms.UserName(os.Geteuid())+" "+theirs)
	} else {
		if err := os.Mkdir(filepath.Join(dir, "ro"), 0o500); err != nil {
			t.Fatal(err)
		}
		try("not writable", filepath.Join(dir, "ro", "s"), fs.ErrPermission, dir+"/ro")
	}
}

// Check has all that is wrong at once.
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
	spec := perms.Spec{Mode: -1, UID: 12345, GID: 54321}
	_, err := Check(Addr{Unix, path}, spec)
	for _, want := range []error{ErrNotSocket, ErrUnsafeDir, ErrUnsafeLock} {
		if !errors.Is(err, want) {
			t.Errorf("%v is no %v", err, want)
		}
	}
	if os.Geteuid() != 0 && !errors.Is(err, fs.ErrPermission) {
		t.Errorf("%v is no ErrPermission", err)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %v", err)
	}
}

// The umask has no say in the mode, and nobody gets in before listen(2).
func TestMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		for _, m := range []int{0, 0o060, 0o222, 0o600, 0o660, 0o666, 0o777} {
			t.Run(fmt.Sprintf("%04o under %04o", m, umask), func(t *testing.T) {
				path := filepath.Join(tempDir(t), "s")
				var early []string
				stepHook = func(name string) {
					if name == "bound" || name == "permitted" {
						if err := connect(path); err == nil {
							early = append(early, name)
						}
					}
				}
				defer func() { stepHook = nil }()
				old := syscall.Umask(umask)
				l, err := Listen(Addr{Unix, path}, mode(m))
				syscall.Umask(old)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if early != nil {
					t.Errorf("could connect when %v", early)
				}
				if got, _, _, err := l.Info(); err != nil || got != os.ModeSocket|os.FileMode(m) {
					t.Errorf("mode %v, %v", got, err)
				}
				st, err := os.Stat(filepath.Join(filepath.Dir(path), ".s.lock"))
				if err != nil || st.Mode() != 0o600 {
					t.Errorf("lock file: %v, %v", st.Mode(), err)
				}
				l.Close()
				// The same again, and with the lock file that is there now.
				if _, err := Check(Addr{Unix, path}, mode(m)); err != nil {
					t.Error(err)
				}
				listen(t, path, mode(m))
			})
		}
	}
}

func TestOwner(t *testing.T) {
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	root := os.Geteuid() == 0
	for _, tt := range []struct {
		name string
		spec perms.Spec
		ok   bool
	}{
		{"ourselves", perms.Spec{Mode: 0o600, UID: os.Geteuid(), GID: os.Getegid()}, true},
		{"another owner", perms.Spec{Mode: 0o600, UID: 12345, GID: -1}, root},
		{"another group", perms.Spec{Mode: 0o660, UID: -1, GID: 54321}, root},
		{"both", perms.Spec{Mode: 0o060, UID: 12345, GID: 54321}, root},
		{"last group of ours", perms.Spec{Mode: 0o660, UID: -1, GID: append([]int{os.Getegid()}, groups...)[len(groups)]}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "s")
			_, cerr := Check(Addr{Unix, path}, tt.spec)
			l, err := Listen(Addr{Unix, path}, tt.spec)
			if !tt.ok {
				for _, err := range []error{cerr, err} {
					if !errors.Is(err, fs.ErrPermission) {
						t.Errorf("got %v", err)
					}
				}
				if exists(path) {
					t.Error("our own file was left")
				}
				return
			}
			if err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			defer l.Close()
			m, uid, gid, err := l.Info()
			if tt.spec.UID != -1 && uid != tt.spec.UID || tt.spec.GID != -1 && gid != tt.spec.GID ||
				int(m.Perm()) != tt.spec.Mode || err != nil {
				t.Errorf("wanted %v, got %v %d:%d, %v", tt.spec, m, uid, gid, err)
			}
			if err := l.Renew(); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file there: %v", err, exists(path))
			}
			if l, err = Listen(Addr{Unix, path}, tt.spec); err != nil {
				t.Error(err)
			} else {
				l.Close()
			}
		})
	}
}

// Who can connect, by mode and user. This is what perms.Enforced promises.
func TestWhoConnects(t *testing.T) {
	needRoot(t)
	const owner, group, member, stranger = 12345, 54321, 12346, 12347
	if strings.HasPrefix(perms.Enforced(), "unknown") {
		t.Skip("this system promises nothing: ", perms.Enforced())
	}
	dir := tempDir(t)
	chmod(t, dir, 0o755)
	path := filepath.Join(dir, "s")
	users := []struct {
		name string
		cred syscall.Credential
	}{
		{"root", syscall.Credential{}},
		{"owner", syscall.Credential{Uid: owner, Gid: owner}},
		{"member", syscall.Credential{Uid: member, Gid: member, Groups: []uint32{member, group}}},
		{"stranger", syscall.Credential{Uid: stranger, Gid: stranger}},
	}
	for _, tt := range []struct {
		mode int
		who  string // first letters
	}{
		{0o000, "r"}, {0o444, "r"}, {0o111, "r"},
		{0o200, "ro"}, {0o600, "ro"}, {0o020, "rm"}, {0o060, "rm"}, {0o002, "rs"},
		{0o660, "rom"}, {0o222, "roms"}, {0o666, "roms"}, {0o755, "ro"},
	} {
		t.Run(fmt.Sprintf("%04o", tt.mode), func(t *testing.T) {
			l := listen(t, path, perms.Spec{Mode: tt.mode, UID: owner, GID: group})
			defer l.Close()
			for _, u := range users {
				got, err := start(t, "connect", path, "", &u.cred).end()
				may := strings.Contains(tt.who, u.name[:1])
				if may != (err == nil) {
					t.Errorf("%s: %s, %v", u.name, got, err)
				}
				if !may && !strings.Contains(got, "permission denied") {
					t.Errorf("%s: refused, but not for lack of permission: %s", u.name, got)
				}
			}
		})
	}
}

// A server whose queue is full is alive.
func TestFullQueue(t *testing.T) {
	if refusalPatience != 0 {
		t.Skip("this system refuses a connection when the queue is full")
	}
	path := filepath.Join(tempDir(t), "s")
	bound(t, path, unix.SOCK_STREAM, 0, false)
	for range 10 {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		unix.SetNonblock(fd, true)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err == unix.EAGAIN {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := connect(path); err != unix.EAGAIN {
		t.Fatalf("the queue is not full: %v", err)
	}
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if !exists(path) {
		t.Error("a live server's file was removed")
	}
}

// A socket whose server comes alive while the file's mode is lent to us.
func TestLentModeIsGivenBack(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root needs no mode; TestOrdinaryUser runs this")
	}
	path := filepath.Join(tempDir(t), "s")
	bound(t, path, unix.SOCK_STREAM, 5, false)
	chmod(t, path, 0o060)
	var lent os.FileMode
	stepHook = func(name string) {
		if st, err := os.Lstat(path); err == nil && name == "mode lent" {
			lent = st.Mode().Perm()
		}
	}
	defer func() { stepHook = nil }()
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if lent != 0o260 {
		t.Errorf("lent mode %04o", lent)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o060 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}

// The file may vanish at any step.
func TestVanishing(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755)
	stepHook = func(name string) {
		if name == "stale" {
			os.Remove(path)
		}
	}
	defer func() { stepHook = nil }()
	listen(t, path, mode(0o600))
}

// A program that does not ask for the lock takes the path at the last moment.
func TestIntruder(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	var ln net.Listener
	stepHook = func(name string) {
		if name == "cleared" {
			ln, _ = net.Listen("unix", path)
		}
	}
	defer func() { stepHook = nil }()
	leftover(t, path, 0o755)
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrInUse) {
		t.Error(err)
	}
	if ln == nil || connect(path) != nil {
		t.Error("the intruder's socket was touched")
	}
	ln.Close()
}

// The directory is moved away between check and bind.
func TestMovedDirectory(t *testing.T) {
	top := tempDir(t)
	dir := filepath.Join(top, "d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	stepHook = func(name string) {
		if name == "locked" {
			os.Rename(dir, dir+"2")
			os.Mkdir(dir, 0o700)
		}
	}
	defer func() { stepHook = nil }()
	if _, err := Listen(Addr{Unix, dir + "/s"}, mode(0o600)); !errors.Is(err, ErrUnsafeDir) {
		t.Error(err)
	}
}

// Something else stands at the path when the new socket is looked for.
func TestReplacedAfterBind(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	stepHook = func(name string) {
		if name == "bound" {
			os.Remove(path)
			os.WriteFile(path, []byte("precious"), 0o644)
		}
	}
	defer func() { stepHook = nil }()
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrUnsafeDir) {
		t.Error(err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode() != 0o644 || st.Size() != 8 {
		t.Errorf("the file was touched: %v, %v", st, err)
	}
}

func TestSticky(t *testing.T) {
	needRoot(t)
	dir := tempDir(t)
	chmod(t, dir, 0o1777)
	path := filepath.Join(dir, "s")
	leftover(t, path, 0o777)
	// Another user's leftover can be asked but not removed.
	cred := &syscall.Credential{Uid: nobody, Gid: nobody}
	out, err := start(t, "hold", path, "", cred).end()
	if err == nil || !strings.Contains(out, "not permitted") {
		t.Errorf("%s, %v", out, err)
	}
	os.Remove(path)
	os.Remove(filepath.Join(dir, ".s.lock"))
	// Now another user is first, and is not disturbed.
	c := start(t, "hold", path, "", cred)
	c.line(t)
	if _, err := Listen(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrUnsafeLock) {
		t.Error(err)
	}
	if _, err := Check(Addr{Unix, path}, mode(0o600)); !errors.Is(err, ErrUnsafeLock) {
		t.Error(err)
	}
	if out, err := c.end(); err != nil {
		t.Errorf("%s, %v", out, err)
	}
}

// A killed server leaves nothing that keeps the next one from starting.
func TestKilledAtEachStep(t *testing.T) {
	steps := []string{
		"directory open", "lock opened", "lock created", "locked", "stale",
		"cleared", "mode lent", "bound", "permitted", "listening", "served",
	}
	for _, name := range steps {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "s")
			if name == "mode lent" && os.Geteuid() == 0 {
				t.Skip("root needs no mode; TestOrdinaryUser runs this")
			}
			leftover(t, path, 0o060)
			c := start(t, "kill", path, name, nil)
			out, err := c.end()
			ws, ok := c.ProcessState.Sys().(syscall.WaitStatus)
			if !ok || ws.Signal() != syscall.SIGKILL {
				t.Fatalf("was not killed: %s, %v", out, err)
			}
			begun := time.Now()
			l := listen(t, path, mode(0o600))
			if d := time.Since(begun); d > refusalPatience+time.Second {
				t.Errorf("took %v", d)
			}
			talk(t, l)
			if err := l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file there: %v", err, exists(path))
			}
		})
	}
}

func TestRacingStarts(t *testing.T) {
	path := filepath.Join(tempDir(t), "s")
	leftover(t, path, 0o755)
	var children []*child
	for range 24 {
		children = append(children, start(t, "race", path, "", nil))
	}
	for i, c := range children {
		if out, err := c.end(); err != nil {
			t.Errorf("child %d: %s, %v", i, out, err)
		}
	}
	if exists(path) {
		t.Error("the file outlived all")
	}
}
