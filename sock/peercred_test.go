package sock

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

func TestPeerCred(t *testing.T) {
	dir := tempDir(t)
	chmod(t, dir, 0o755)
	path := filepath.Join(dir, "s")
	l := listen(t, path, mode(0o666))
	// The effective group comes first in every list: on FreeBSD setgid(2)
	// replaces what setgroups(2) put there.
	many := []uint32{30000}
	for i := range uint32(100) {
		many = append(many, 20000+i)
	}
	for _, tt := range []struct {
		name string
		cred *syscall.Credential
	}{
		{"ourselves", nil},
		{"root", &syscall.Credential{}},
		{"user", &syscall.Credential{Uid: 12345, Gid: 54321}},
		{"groups", &syscall.Credential{Uid: 12345, Gid: 54321, Groups: []uint32{54321, 7, 20007}}},
		{"many groups", &syscall.Credential{Uid: 12346, Gid: 30000, Groups: many}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.cred != nil {
				needRoot(t)
			}
			c := start(t, "connect", path, "", tt.cred)
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			got, err := PeerCred(conn.(syscall.Conn))
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%+v", got)
			uid, gid, groups := os.Geteuid(), os.Getegid(), []uint32{}
			if tt.cred != nil {
				uid, gid, groups = int(tt.cred.Uid), int(tt.cred.Gid), tt.cred.Groups
			}
			if got.UID != uid || got.GID != gid || len(got.Groups) == 0 || got.Groups[0] != gid || !got.In(gid) || got.In(4711) {
				t.Errorf("wanted user %d, group %d", uid, gid)
			}
			for i, g := range groups {
				// FreeBSD and darwin see 16 at most.
				if !got.In(int(g)) && i < 15 {
					t.Errorf("not in group %d", g)
				}
			}
			sorted := slices.Clone(got.Groups)
			slices.Sort(sorted)
			if len(slices.Compact(sorted)) != len(got.Groups) {
				t.Error("a group more than once")
			}
			if s := fmt.Sprintf("connected %d", got.PID); got.PID != -1 && s != c.line(t) {
				t.Errorf("pid %d", got.PID)
			}
			conn.Close()
			if out, err := c.end(); err != nil {
				t.Error(out, err)
			}
			if _, err := PeerCred(conn.(syscall.Conn)); err == nil {
				t.Error("of a closed connection")
			}
		})
	}
}

func TestPeerCredOfTCP(t *testing.T) {
	l, err := Listen(Addr{TCP4, "127.0.0.1:0"}, unchanged)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := talk(t, l).(*net.TCPConn)
	if got, err := PeerCred(c); err == nil {
		t.Errorf("got %+v", got)
	}
}
