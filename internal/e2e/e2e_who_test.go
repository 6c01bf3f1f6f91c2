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

// These tests check who can connect: the mode of the socket file for users and
// groups, and -allow. The tests of package sock check more modes.

// These users need no entry in a database.
const (
	gidWeb   = 30033 // the group that may connect
	uidOther = 30001
)

// wantOwner checks the owner of a socket file.
func wantOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	if st := lstat(t, path).Sys().(*syscall.Stat_t); st.Uid != uid || st.Gid != gid {
		t.Errorf("socket of %d:%d, want %d:%d", st.Uid, st.Gid, uid, gid)
	}
}

// wantNote checks that a warning about permissions is logged once.
func (s *server) wantNote(msg string) {
	s.t.Helper()
	if found := s.find(msg); len(found) != 1 || found[0]["level"] != "WARN" {
		s.t.Errorf("%q of level WARN: %v", msg, found)
	}
}

func TestWhoByMode(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	owner := nobody(t)
	owner.Groups = []uint32{owner.Gid, gidWeb}
	clients := []struct {
		name string
		cred *syscall.Credential
		bit  int // bit of the mode that lets it in; 0: any mode
	}{
		{"root", &syscall.Credential{}, 0},
		{"owner", nobody(t), 0o200},
		{"owner in the group", owner, 0o200},
		{"group by membership", &syscall.Credential{Uid: uidOther, Gid: uidOther, Groups: []uint32{uidOther, gidWeb}}, 0o020},
		{"group by its own", &syscall.Credential{Uid: uidOther, Gid: gidWeb}, 0o020},
		{"others", &syscall.Credential{Uid: uidOther, Gid: uidOther}, 0o002},
	}
	modes := []int{0o660, 0o666, 0o444, 0o200, 0o020, 0o002}
	var paths []string
	var servers []*server
	for _, mode := range modes {
		s := launch{cred: owner, args: []string{"-socket-mode", fmt.Sprintf("%#04o", mode), "-socket-group", strconv.Itoa(gidWeb)}}.start(t)
		servers = append(servers, s)
		paths = append(paths, s.path)
		wantOwner(t, s.path, owner.Uid, gidWeb)
		if fi := lstat(t, s.path); fi.Mode() != os.ModeSocket|os.FileMode(mode) {
			t.Errorf("-socket-mode %#04o made %v", mode, fi.Mode())
		}
	}
	for _, c := range clients {
		results := strings.Split(strings.TrimSpace(as(t, c.cred, "connect", paths...)), "\n")
		if len(results) != len(modes) {
			t.Fatalf("%s: %q", c.name, results)
		}
		for i, mode := range modes {
			want := syscall.EACCES.Error()
			if c.bit == 0 || mode&c.bit != 0 {
				want = "in 200"
			}
			if results[i] != want {
				t.Errorf("%s, mode %04o: %s, want %s", c.name, mode, results[i], want)
			}
		}
	}
	for _, s := range servers {
		s.stop()
	}
}

// The usual layout: the directory gives access only to the web server's group,
// whatever the mode of the socket.
func TestWhoByDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	owner := nobody(t)
	dir := newDir(t, owner)
	os.Chown(dir, int(owner.Uid), gidWeb)
	os.Chmod(dir, 0o750)
	s := launch{cred: owner, dir: dir, args: []string{"-socket-mode", "0666"}}.start(t)
	web := &syscall.Credential{Uid: uidOther, Gid: uidOther, Groups: []uint32{uidOther, gidWeb}}
	if got := as(t, web, "connect", s.path); got != "in 200\n" {
		t.Errorf("the web server: %s", got)
	}
	if got := as(t, &syscall.Credential{Uid: uidOther, Gid: uidOther}, "connect", s.path); got != syscall.EACCES.Error()+"\n" {
		t.Errorf("others: %s", got)
	}
	s.wantNote("every local user can connect")
	s.stop()
}

// The socket gets the group of a set-group-id directory on Linux, and of any
// directory on FreeBSD, without membership.
func TestWhoGroupOfDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t, "it gives a directory to a group")
	owner := nobody(t)
	dir := newDir(t, owner)
	os.Chown(dir, int(owner.Uid), gidWeb)
	os.Chmod(dir, 0o750|os.ModeSetgid)
	s := launch{cred: owner, dir: dir}.start(t)
	wantOwner(t, s.path, owner.Uid, gidWeb)
	if fi := lstat(t, s.path); fi.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %v, want 0660", fi.Mode())
	}
	// What is as documented is not worth a record.
	s.mu.Lock()
	if first := s.records[0]; first["msg"] != "start" {
		t.Errorf("logged: %v", first)
	}
	s.mu.Unlock()
	if got := as(t, &syscall.Credential{Uid: uidOther, Gid: gidWeb}, "connect", s.path); got != "in 200\n" {
		t.Errorf("the web server: %s", got)
	}
	s.stop()
}

func TestWhoOwner(t *testing.T) {
	t.Parallel()
	needRoot(t, "only root can set another owner")
	s := start(t, "-socket-owner", "nobody", "-socket-group", strconv.Itoa(gidWeb), "-socket-mode", "0600")
	wantOwner(t, s.path, nobody(t).Uid, gidWeb)
	if got := as(t, nobody(t), "connect", s.path); got != "in 200\n" {
		t.Errorf("the owner: %s", got)
	}
	s.stop()
}

// What an ordinary user can test.
func TestWhoOneself(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root gets in everywhere; the pass as an ordinary user runs this")
	}
	for mode, want := range map[string]string{"0200": "in 200", "0466": syscall.EACCES.Error()} {
		s := start(t, "-socket-mode", mode)
		if got := as(t, nil, "connect", s.path); got != want+"\n" {
			t.Errorf("mode %s: %s, want %s", mode, got, want)
		}
		s.stop()
	}
}

// A directory that others can write to is refused unless it is sticky.
func TestWhoStickyDirectory(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	os.Chmod(dir, 0o777|os.ModeSticky)
	s := launch{dir: dir}.start(t)
	s.get("/").wantStatus(t, 200)
	s.stop()
	os.Chmod(dir, 0o777)
	r := run(t, "-listen", "unix:"+dir+"/s")
	if r.status != statusConfig || !strings.Contains(r.stderr, dir+": writable by its group and others") {
		t.Errorf("%+v", r)
	}
	wantGone(t, dir+"/s")
}

func TestWhoAllow(t *testing.T) {
	t.Parallel()
	needRoot(t, "it connects as several users")
	daemon, err := user.Lookup("daemon")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(daemon.Uid)
	dir := newDir(t, nil)
	s := launch{dir: dir, args: []string{"-socket-mode", "0666", "-allow", fmt.Sprintf("daemon, %d,:%d", uidOther+1, gidWeb),
		"-listen", "unix:" + dir + "/s", "-listen", "tcp4:127.0.0.1:0"}}.start(t)
	for _, tt := range []struct {
		name string
		cred *syscall.Credential
		in   bool
	}{
		{"by name", &syscall.Credential{Uid: uint32(uid), Gid: 30002}, true},
		{"by number", &syscall.Credential{Uid: uidOther + 1, Gid: 30002}, true},
		{"by group", &syscall.Credential{Uid: uidOther, Gid: gidWeb}, true},
		{"by membership", &syscall.Credential{Uid: uidOther, Gid: 30002, Groups: []uint32{30002, 30004, gidWeb}}, true},
		{"another", &syscall.Credential{Uid: uidOther, Gid: 30002, Groups: []uint32{30002, 30004}}, false},
		{"root", &syscall.Credential{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := as(t, tt.cred, "connect", s.path)
			if in := got == "in 200\n"; in != tt.in || !in && !strings.HasPrefix(got, "closed") {
				t.Errorf("%s: %s", tt.name, got)
			}
			if !tt.in {
				s.await("peer refused", "uid", fmt.Sprint(tt.cred.Uid))
			}
		})
	}
	// TCP peers have no credentials; -allow is for Unix listeners.
	s.addr = dialable(splitList(s.await("start")["listen"])[1])
	s.get("/").wantStatus(t, 200)
	s.stop()
}
