package sock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/onewake/onewake/perms"
)

// The umask has no effect on the mode, and no client can connect before listen(2).
func TestMode(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		for _, m := range []int{0, 0o060, 0o222, 0o600, 0o660, 0o666, 0o777} {
			t.Run(fmt.Sprintf("%04o under %04o", m, umask), func(t *testing.T) {
				path := filepath.Join(tempDir(t), "s")
				var early []string
				ctx := withSteps(func(name string) {
					if name == "bound" || name == "permitted" {
						if err := connect(path); err == nil {
							early = append(early, name)
						}
					}
				})
				old := syscall.Umask(umask)
				l, err := Config{Perms: mode(m), LockWait: -1}.Listen(ctx, Addr{Unix, path})
				syscall.Umask(old)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				if early != nil {
					t.Errorf("could connect at %v", early)
				}
				if got := file(t, path).Mode(); got != os.ModeSocket|os.FileMode(m) {
					t.Errorf("mode %v", got)
				}
				st, err := os.Stat(filepath.Join(filepath.Dir(path), ".s.lock"))
				if err != nil || st.Mode() != 0o600 {
					t.Errorf("lock file: %v, %v", st.Mode(), err)
				}
				l.Close()
				// The same with the existing lock file.
				if _, err := check(path, mode(m)); err != nil {
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
		{"ourselves", perms.Spec{Mode: perms.Set(0o600), UID: perms.Set(os.Geteuid()), GID: perms.Set(os.Getegid())}, true},
		{"another owner", perms.Spec{Mode: perms.Set(0o600), UID: perms.Set(12345)}, root},
		{"another group", perms.Spec{Mode: perms.Set(0o660), GID: perms.Set(54321)}, root},
		{"both", perms.Spec{Mode: perms.Set(0o060), UID: perms.Set(12345), GID: perms.Set(54321)}, root},
		{"last group of ours", perms.Spec{Mode: perms.Set(0o660), GID: perms.Set(append([]int{os.Getegid()}, groups...)[len(groups)])}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(tempDir(t), "s")
			_, cerr := check(path, tt.spec)
			l, err := listenAt(path, tt.spec)
			if !tt.ok {
				for _, err := range []error{cerr, err} {
					if !errors.Is(err, fs.ErrPermission) {
						t.Errorf("got %v", err)
					}
				}
				if exists(path) {
					t.Error("the file was not removed")
				}
				return
			}
			if err != nil || cerr != nil {
				t.Fatal(err, cerr)
			}
			defer l.Close()
			st, err := lstat(path)
			if !tt.spec.UID.Permits(st.uid) || !tt.spec.GID.Permits(st.gid) || !tt.spec.Mode.Permits(int(st.mode&0o7777)) || err != nil {
				t.Errorf("wanted %v, got %04o %d:%d, %v", tt.spec, st.mode, st.uid, st.gid, err)
			}
			if err := l.Close(); err != nil || exists(path) {
				t.Errorf("Close: %v, file exists: %v", err, exists(path))
			}
			if l, err = listenAt(path, tt.spec); err != nil {
				t.Error(err)
			} else {
				l.Close()
			}
		})
	}
}

// Who can connect, by mode and user, as perms.Enforced says.
func TestWhoConnects(t *testing.T) {
	needRoot(t)
	const owner, group, member, stranger = 12345, 54321, 12346, 12347
	if strings.HasPrefix(perms.Enforced(), "unknown") {
		t.Skip(perms.Enforced())
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
	var children []*child
	for _, u := range users {
		children = append(children, start(t, "connect", path, &u.cred))
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
			l := listen(t, path, perms.Spec{Mode: perms.Set(tt.mode), UID: perms.Set(owner), GID: perms.Set(group)})
			defer l.Close()
			for i, u := range users {
				got := children[i].ask(t, "again")
				want := "permission denied"
				if strings.Contains(tt.who, u.name[:1]) {
					want = "connected"
				}
				if !strings.Contains(got, want) {
					t.Errorf("%s: %s, want %s", u.name, got, want)
				}
			}
		})
	}
}
