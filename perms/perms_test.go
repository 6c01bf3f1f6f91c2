package perms

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs a role if the test binary was started as a child of another user.
func TestMain(m *testing.M) {
	switch os.Getenv("PERMS_TEST_ROLE") {
	case "":
		os.Exit(m.Run())
	case "connect":
		childConnect(os.Getenv("PERMS_TEST_ARG"))
		os.Exit(0)
	}
	arg := strings.Split(os.Getenv("PERMS_TEST_ARG"), ",")
	path := arg[3]
	s, err := parse(arg[0], arg[1], arg[2])
	var dir *os.File
	if err == nil {
		dir, err = os.Open(filepath.Dir(path))
	}
	if err == nil {
		err = s.ApplyAt(dir, filepath.Base(path))
	}
	fmt.Println(errors.Is(err, fs.ErrPermission), err)
	os.Exit(0)
}

// parse returns a Spec from user input.
func parse(mode, owner, group string) (s Spec, err error) {
	for _, part := range []struct {
		text  string
		parse func(string) (int, error)
		to    *Setting
	}{{mode, ParseMode, &s.Mode}, {owner, LookupUser, &s.UID}, {group, LookupGroup, &s.GID}} {
		if n, e := part.parse(part.text); part.text != "" {
			*part.to, err = Set(n), errors.Join(err, e)
		}
	}
	return s, err
}

func TestParse(t *testing.T) {
	root, err := user.LookupId("0")
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroupId("0")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name               string
		mode, owner, group string
		want               Spec
		err                string
	}{
		{"nothing", "", "", "", Spec{}, ""},
		{"mode", "0660", "", "", Spec{Mode: Set(0o660)}, ""},
		{"mode without zero", "777", "", "", Spec{Mode: Set(0o777)}, ""},
		{"mode 0", "0", "", "", Spec{Mode: Set(0)}, ""},
		{"numbers", "", "12345", "4294967294", Spec{UID: Set(12345), GID: Set(4294967294)}, ""},
		{"names", "", root.Username, group.Name, Spec{UID: Set(0), GID: Set(0)}, ""},
		{"not octal", "0680", "", "", Spec{}, `mode "0680": not an octal number from 0 to 0777`},
		{"Go's octal", "0o660", "", "", Spec{}, "not an octal number"},
		{"sign", "+660", "", "", Spec{}, "not an octal number"},
		{"negative mode", "-1", "", "", Spec{}, "mode"},
		{"negative user", "", "-1", "", Spec{}, "user"},
		{"negative group", "", "", "-1", Spec{}, "group"},
		{"set-gid", "2770", "", "", Spec{}, `mode "2770": not`},
		{"over 0777", "1000", "", "", Spec{}, `mode "1000": not`},
		{"no change in chown(2)", "", "4294967295", "", Spec{}, "out of range"},
		{"over 32 bits", "", "4294967296", "", Spec{}, "not a number from 0 to 4294967294"},
		{"no user", "", "no such user", "", Spec{}, `user "no such user": no such user`},
		{"no group", "", "", "no such group", Spec{}, `group "no such group": no such group`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(tt.mode, tt.owner, tt.group)
			switch {
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("got %v, want %q", err, tt.err)
			case tt.err == "" && (got != tt.want || err != nil):
				t.Errorf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
	if _, err := ParseMode(""); err == nil {
		t.Error("an empty mode is accepted")
	}
}

// chmods are the functions by which ApplyAt changes a mode.
var chmods = map[string]func(dir int, name string, mode uint32) error{"chmodAt": chmodAt}

func TestApplyAt(t *testing.T) {
	d := t.TempDir()
	dir, err := os.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, kind := range []string{"file", "socket"} {
		for _, m := range []int{0, 0o060, 0o644, 0o777} {
			for _, umask := range []int{0, 0o777} {
				path := filepath.Join(d, "x")
				os.Remove(path)
				create(t, kind, path)
				old := syscall.Umask(umask)
				err := Spec{Mode: Set(m), UID: Set(os.Geteuid()), GID: Set(os.Getegid())}.ApplyAt(dir, "x")
				syscall.Umask(old)
				st, serr := os.Lstat(path)
				if err != nil || serr != nil || int(st.Mode().Perm()) != m {
					t.Errorf("%s %04o: %v, %v, %v", kind, m, err, serr, st.Mode())
				}
				for name, chmod := range chmods {
					if err := chmod(int(dir.Fd()), "x", 0o321); err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o321 {
						t.Errorf("%s: %v, %v", name, st.Mode(), err)
					}
				}
			}
		}
	}
}

func create(t *testing.T, kind, path string) {
	t.Helper()
	var err error
	if kind == "file" {
		err = os.WriteFile(path, nil, 0o600)
	} else {
		// The path of t.TempDir can be too long for a socket.
		var tmp string
		if tmp, err = os.MkdirTemp("", "ow"); err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(tmp)
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{Name: tmp + "/s"})
			unix.Close(fd)
		}
		if err == nil {
			err = os.Rename(tmp+"/s", path)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The target of a symbolic link keeps its mode and owner.
func TestApplyAtLink(t *testing.T) {
	d := t.TempDir()
	target := filepath.Join(d, "target")
	create(t, "file", target)
	if err := os.Symlink("target", filepath.Join(d, "link")); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Open(d)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	before, _ := os.Stat(target)
	t.Logf("mode of a link: %v", Spec{Mode: Set(0o777)}.ApplyAt(dir, "link"))
	for name, chmod := range chmods {
		t.Logf("%s: %v", name, chmod(int(dir.Fd()), "link", 0o777))
	}
	if os.Geteuid() == 0 {
		t.Logf("owner of a link: %v", Spec{UID: Set(12345), GID: Set(54321)}.ApplyAt(dir, "link"))
	}
	after, _ := os.Stat(target)
	if before.Mode() != after.Mode() || !slices.Equal(owner(before), owner(after)) {
		t.Errorf("the target of the link was %v %v, is %v %v", before.Mode(), owner(before), after.Mode(), owner(after))
	}
}

func owner(fi os.FileInfo) []uint32 {
	st := fi.Sys().(*syscall.Stat_t)
	return []uint32{st.Uid, st.Gid}
}

func TestApplyAtMissing(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, s := range []Spec{{Mode: Set(0o600)}, {UID: Set(os.Geteuid())}} {
		err := s.ApplyAt(dir, "x")
		var pe *os.PathError
		if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pe) || pe.Path != dir.Name()+"/x" {
			t.Errorf("%v: %v", s, err)
		}
	}
	if err := (Spec{}).ApplyAt(dir, "x"); err != nil {
		t.Errorf("zero Spec: %v", err)
	}
}

// Only what is set is changed. 0 is a valid mode, user and group.
func TestZero(t *testing.T) {
	if n, ok := (Setting{}).Get(); ok || n != 0 || !(Setting{}).Permits(7) {
		t.Error("the zero Setting is set")
	}
	if n, ok := Set(0).Get(); !ok || n != 0 || !Set(0).Permits(0) || Set(0).Permits(7) {
		t.Error("Set(0) is not set")
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	path := filepath.Join(dir.Name(), "x")
	for _, tt := range []struct {
		spec     Spec
		mode     os.FileMode
		uid, gid uint32
	}{
		{Spec{}, 0o640, 12345, 54321},
		{Spec{Mode: Set(0)}, 0, 12345, 54321},
		{Spec{UID: Set(0)}, 0o640, 0, 54321},
		{Spec{GID: Set(0)}, 0o640, 12345, 0},
		{Spec{Set(0), Set(0), Set(0)}, 0, 0, 0},
	} {
		os.Remove(path)
		create(t, "file", path)
		if err := errors.Join(os.Chown(path, 12345, 54321), os.Chmod(path, 0o640), tt.spec.ApplyAt(dir, "x")); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(path)
		if err != nil || fi.Mode() != tt.mode || !slices.Equal(owner(fi), []uint32{tt.uid, tt.gid}) {
			t.Errorf("%v: got %v %v, %v", tt.spec, fi.Mode(), owner(fi), err)
		}
	}
}

// noSleep saves the second for which the race detector sleeps at exit.
const noSleep = "GORACE=atexit_sleep_ms=0"

// publicBinary returns a copy of the test binary that other users can run: go test
// keeps its own in a directory of mode 0700.
func publicBinary(t *testing.T) (bin, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ow")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	name, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	bin = filepath.Join(dir, "t")
	if err := os.WriteFile(bin, self, 0o755); err != nil {
		t.Fatal(err)
	}
	return bin, dir
}

// An ordinary user can set neither another owner nor a group that it is not in.
func TestApplyAtOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can start processes of other users")
	}
	const uid, gid, group = 12345, 12345, 54321
	bin, d := publicBinary(t)
	// A directory of its own, so that the file keeps its group.
	sub := filepath.Join(d, "d")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(sub, "x")
	for _, tt := range []struct {
		name   string
		spec   string // mode, owner, group
		denied bool
	}{
		{"nothing", ",,", false},
		{"mode", "0640,,", false},
		{"own group", fmt.Sprintf(",,%d", group), false},
		{"itself", fmt.Sprintf("0600,%d,%d", uid, gid), false},
		{"root", ",0,", true},
		{"foreign group", ",,4711", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			os.Remove(path)
			create(t, "file", path)
			if err := os.Chown(path, uid, gid); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(bin)
			cmd.Dir = "/"
			cmd.Env = []string{noSleep, "PERMS_TEST_ROLE=apply",
				"PERMS_TEST_ARG=" + tt.spec + "," + path}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: []uint32{gid, group}}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatal(err)
			}
			if want := fmt.Sprint(tt.denied); !strings.HasPrefix(string(out), want) || !tt.denied && string(out) != "false <nil>\n" {
				t.Errorf("denied %s", out)
			}
		})
	}
}

func TestNotes(t *testing.T) {
	uid := os.Geteuid()
	for _, tt := range []struct {
		mode os.FileMode
		uid  int
		want []string
	}{
		{0o660, uid, nil},
		{os.ModeSocket | 0o660, uid, nil},
		{0o666, uid, []string{"every local user"}},
		{0o662, uid, []string{"every local user"}},
		{0o600, uid, []string{"no user but the owner"}},
		{0o640, uid, []string{"no user but the owner"}},
		{0o444, uid, []string{"no user but root"}},
		{0o660, uid + 1, []string{"another user"}},
		{0o606, uid + 1, []string{"every local user", "another user"}},
	} {
		got := Notes(tt.mode, tt.uid)
		ok := len(got) == len(tt.want)
		for i := 0; ok && i < len(got); i++ {
			ok = strings.Contains(got[i], tt.want[i])
		}
		if !ok {
			t.Errorf("%v %d: got %q, want %q", tt.mode, tt.uid, got, tt.want)
		}
	}
	if Enforced() == "" {
		t.Error("no text for this system")
	}
}
