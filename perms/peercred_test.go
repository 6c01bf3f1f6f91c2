package perms

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
)

// childConnect keeps a connection open until its input ends.
func childConnect(path string) {
	c, err := net.Dial("unix", path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer c.Close()
	os.Stdin.Read(make([]byte, 1))
}

func TestPeerCred(t *testing.T) {
	bin, dir := publicBinary(t)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	// The effective group comes first in every list, because on FreeBSD setgid(2)
	// replaces the first group.
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
			if tt.cred != nil && os.Geteuid() != 0 {
				t.Skip("only root can start processes of other users")
			}
			cmd := exec.Command(bin)
			cmd.Dir = "/"
			cmd.Env = []string{noSleep, "PERMS_TEST_ROLE=connect", "PERMS_TEST_ARG=" + path}
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: tt.cred}
			in, err := cmd.StdinPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer in.Close()
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
				// FreeBSD returns 16 at most.
				if !got.In(int(g)) && i < 15 {
					t.Errorf("not in group %d", g)
				}
			}
			sorted := slices.Clone(got.Groups)
			slices.Sort(sorted)
			if len(slices.Compact(sorted)) != len(got.Groups) {
				t.Error("a group more than once")
			}
			conn.Close()
			if _, err := PeerCred(conn.(syscall.Conn)); err == nil {
				t.Error("no error for a closed connection")
			}
		})
	}
}

// A TCP connection has no credentials, in particular not those of root.
func TestPeerCredOfTCP(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got, err := PeerCred(c.(*net.TCPConn)); !errors.Is(err, errNotUnix) {
		t.Errorf("got %+v, %v", got, err)
	}
}
