//go:build freebsd || linux

package e2e

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Who gets in: modes of the socket file against users and groups, and -allow.

// The users of the table need no entry in a database.
const (
	gidWeb   = 30033 // the group that may connect
	uidOther = 30001
)

func TestWhoByMode(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	owner := nobody(t)
	owner.Groups = []uint32{owner.Gid, gidWeb}
	clients := []struct {
		name string
		cred *syscall.Credential
		bit  int // of the mode that lets it in, 0: any mode does
	}{
		{"root", &syscall.Credential{}, 0},
		{"owner", nobody(t), 0o200},
		{"owner in the group", owner, 0o200},
		{"group by membership", &syscall.Credential{Uid: uidOther, Gid: uidOther, Groups: []uint32{uidOther, gidWeb}}, 0o020},
		{"group by its own", &syscall.Credential{Uid: uidOther, Gid: gidWeb}, 0o020},
		{"others", &syscall.Credential{Uid: uidOther, Gid: uidOther}, 0o002},
	}
	modes := []int{0o600, 0o660, 0o666, 0o222, 0o444, 0o200, 0o220, 0o020, 0o002, 0o060, 0o006, 0o400, 0o640, 0o777, 0}
	var paths []string
	var servers []*server
	for _, mode := range modes {
		l := launch{cred: owner, dir: newDir(t, owner)}
		l.args = []string{"-socket-mode", fmt.Sprintf("%#04o", mode), "-socket-group", strconv.Itoa(gidWeb)}
		s := l.start(t)
		servers = append(servers, s)
		paths = append(paths, s.path)
		fi, err := os.Lstat(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != owner.Uid || st.Gid != gidWeb {
			t.Errorf("socket of %d:%d, want %d:%d", st.Uid, st.Gid, owner.Uid, gidWeb)
		}
	}
	var table strings.Builder
	for _, c := range clients {
		results := strings.Split(strings.TrimSpace(as(t, c.cred, "connect", paths...)), "\n")
		fmt.Fprintf(&table, "%-20s", c.name)
		for i, mode := range modes {
			want := syscall.EACCES.Error()
			if c.bit == 0 || mode&c.bit != 0 {
				want = "in 200"
			}
			fmt.Fprintf(&table, " %04o:%v", mode, results[i] == "in 200")
			if results[i] != want {
				t.Errorf("%s, mode %04o: %s, want %s", c.name, mode, results[i], want)
			}
		}
		table.WriteByte('\n')
	}
	t.Logf("who gets in:\n%s", &table)
	for _, s := range servers {
		s.stop()
	}
}

// The directories that lead to a socket are a guard too.
func TestWhoByDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	owner := nobody(t)
	dir := newDir(t, owner)
	os.Chown(dir, int(owner.Uid), gidWeb)
	os.Chmod(dir, 0o750)
	// The usual layout: the directory's group is the web server's.
	s := launch{cred: owner, dir: dir, args: []string{"-socket-mode", "0666"}}.start(t)
	web := &syscall.Credential{Uid: uidOther, Gid: uidOther, Groups: []uint32{uidOther, gidWeb}}
	if got := as(t, web, "connect", s.path); got != "in 200\n" {
		t.Errorf("the web server: %s", got)
	}
	if got := as(t, &syscall.Credential{Uid: uidOther, Gid: uidOther}, "connect", s.path); got != syscall.EACCES.Error()+"\n" {
		t.Errorf("others: %s", got)
	}
	if found := s.find("every local user can connect"); len(found) != 1 || found[0]["level"] != "WARN" {
		t.Errorf("that every local user can connect: %v", found)
	}
	s.stop()
}

// A set-group-id directory on Linux, and any on FreeBSD, gives the socket its
// group; no membership is needed for that.
func TestWhoGroupOfDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "it gives a directory to a group")
	owner := nobody(t)
	dir := newDir(t, owner)
	os.Chown(dir, int(owner.Uid), gidWeb)
	os.Chmod(dir, 0o750|os.ModeSetgid)
	s := launch{cred: owner, dir: dir}.start(t)
	fi, err := os.Lstat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Gid != gidWeb || fi.Mode().Perm() != 0o660 {
		t.Errorf("socket of group %d with mode %v, want %d with 0660", st.Gid, fi.Mode(), gidWeb)
	}
	if found := s.find("members of the socket's group can connect, and this process is not in it"); len(found) != 1 || found[0]["level"] != "INFO" {
		t.Errorf("a group that the owner is not in, as it should be: %v", found)
	}
	if got := as(t, &syscall.Credential{Uid: uidOther, Gid: gidWeb}, "connect", s.path); got != "in 200\n" {
		t.Errorf("the web server: %s", got)
	}
	s.stop()
}

func TestWhoOwner(t *testing.T) {
	t.Parallel()
	needRoot(t, "only root can give a socket away")
	s := start(t, "-socket-owner", "nobody", "-socket-group", strconv.Itoa(gidWeb), "-socket-mode", "0600")
	fi, err := os.Lstat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != nobody(t).Uid || st.Gid != gidWeb {
		t.Errorf("socket of %d:%d", st.Uid, st.Gid)
	}
	if got := as(t, nobody(t), "connect", s.path); got != "in 200\n" {
		t.Errorf("the owner: %s", got)
	}
	s.stop()
}

// As far as an ordinary user alone can tell.
func TestWhoOneself(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root gets in everywhere; the pass as an ordinary user runs this")
	}
	for mode, want := range map[string]string{
		"0600": "in 200", "0666": "in 200", "0222": "in 200", "0200": "in 200",
		"0444": syscall.EACCES.Error(), "0066": syscall.EACCES.Error(), "0000": syscall.EACCES.Error(),
	} {
		s := start(t, "-socket-mode", mode)
		if got := as(t, nil, "connect", s.path); got != want+"\n" {
			t.Errorf("mode %s: %s, want %s", mode, got, want)
		}
		s.stop()
	}
	r := run(t, "-listen", "unix:"+newDir(t, nil)+"/s", "-socket-owner", "root")
	if r.status != statusNoPerm {
		t.Errorf("giving a socket away: exit status %d, %q", r.status, r.stderr)
	}
}

// Directories that others can write are refused, with the command that mends
// it.
func TestWhoUnsafeDirectory(t *testing.T) {
	t.Parallel()
	for _, mode := range []os.FileMode{0o777, 0o775, 0o770, 0o757} {
		dir := newDir(t, nil)
		os.Chmod(dir, mode)
		r := run(t, "-listen", "unix:"+dir+"/s")
		if r.status != statusConfig || !strings.Contains(r.stderr, "chmod") || !strings.Contains(r.stderr, dir) {
			t.Errorf("mode %o: exit status %d, %q", mode, r.status, r.stderr)
		}
	}
	dir := newDir(t, nil)
	os.Chmod(dir, 0o777|os.ModeSticky)
	s := launch{dir: dir}.start(t)
	s.get("/").wantStatus(t, 200)
	s.stop()
	r := run(t, "-listen", "unix:"+dir+"/nowhere/s")
	if r.status != statusConfig || !strings.Contains(r.stderr, "install -d") {
		t.Errorf("no directory: exit status %d, %q", r.status, r.stderr)
	}
	if os.Geteuid() == 0 {
		dir := newDir(t, nobody(t))
		r := run(t, "-listen", "unix:"+dir+"/s")
		if r.status != statusConfig || !strings.Contains(r.stderr, "chown") {
			t.Errorf("a directory of another user: exit status %d, %q", r.status, r.stderr)
		}
		os.Chown(dir, 0, 0)
		r = launch{cred: nobody(t), args: []string{"-listen", "unix:" + dir + "/s"}}.run(t)
		if r.status != statusNoPerm {
			t.Errorf("a directory of root's: exit status %d, %q", r.status, r.stderr)
		}
	}
}

func TestWhoAllow(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(daemon.Uid)
	s := start(t, "-socket-mode", "0666", "-allow", fmt.Sprintf("daemon, %d,:%d", uidOther+1, gidWeb), "-listen", "unix:"+newDir(t, nil)+"/s", "-listen", "tcp4:127.0.0.1:0")
	path := strings.TrimPrefix(splitList(s.await("start")["listen"])[0], "unix:")
	tests := []struct {
		name string
		cred *syscall.Credential
		in   bool
	}{
		{"by name", &syscall.Credential{Uid: uint32(uid), Gid: 30002}, true},
		{"by number", &syscall.Credential{Uid: uidOther + 1, Gid: 30002}, true},
		{"by group", &syscall.Credential{Uid: uidOther, Gid: gidWeb}, true},
		{"by membership", &syscall.Credential{Uid: uidOther, Gid: 30002, Groups: []uint32{30002, 30004, gidWeb}}, true},
		{"nobody", nobody(t), false},
		{"another", &syscall.Credential{Uid: uidOther, Gid: 30002, Groups: []uint32{30002, 30004}}, false},
		{"root", &syscall.Credential{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := as(t, tt.cred, "connect", path)
			if in := got == "in 200\n"; in != tt.in || !in && !strings.HasPrefix(got, "closed") {
				t.Errorf("%s: %s", tt.name, got)
			}
			if !tt.in {
				s.await("peer refused", "uid", fmt.Sprint(tt.cred.Uid))
			}
		})
	}
	// TCP peers have no credentials; -allow is about unix listeners.
	s.addr = dialable(splitList(s.await("start")["listen"])[1])
	s.get("/").wantStatus(t, 200)
	s.stop()
}
