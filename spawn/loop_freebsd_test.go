package spawn

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnseenProcess: a command that has become another user's cannot be
// watched where users do not see each other; the loop does not stand still for
// that, and learns of its end.
func TestUnseenProcess(t *testing.T) {
	if os.Getenv("OW_ALONE") == "" {
		if os.Getuid() != 0 {
			t.Skip("needs root: it makes a set-user-ID program")
		}
		if n, err := unix.SysctlUint32("security.bsd.see_other_uids"); err != nil || n != 0 {
			t.Skip("needs sysctl security.bsd.see_other_uids=0")
		}
	}
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		program := dir + "/setuid"
		self, err := os.ReadFile(os.Args[0])
		if err == nil {
			err = os.WriteFile(program, self, 0o755)
		}
		if err == nil {
			err = os.Chmod(program, 0o755|os.ModeSetuid)
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setgid(65534); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Setuid(65534); err != nil {
			t.Fatal(err)
		}
		r := newRig(t, ":", 1, never)
		exited := make(chan bool, 1)
		pid := 0
		in, goOn, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		says, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		r.do(func() {
			pid, _, err = Start(program, []string{"x"}, "/", []string{"OW_ROLE=other"}, in.Fd(), out.Fd(), 2)
		})
		if err != nil {
			t.Fatal(err)
		}
		newReader(t, says).pid() // it is root now
		r.do(func() {
			err = r.loop.WatchProcess(pid, -1, func() { exited <- true })
		})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // of which the first may come before what is due at once
			r.do(func() {}) // a loop that waits for the process waits for ever
		}
		select {
		case <-exited:
			t.Error("taken for dead")
		default:
		}
		goOn.Close()
		select {
		case <-exited:
		case <-time.After(bound):
			t.Error("its end was not seen")
		}
		var st unix.WaitStatus
		if n, err := unix.Wait4(pid, &st, unix.WNOHANG, nil); n != pid || err != nil || st.ExitStatus() != 7 {
			t.Errorf("%d, %v, %v", n, err, st)
		}
	})
}

func init() {
	// other becomes root, and ends when it is told to.
	roles["other"] = func() int {
		if syscall.Setuid(0) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		io.Copy(io.Discard, os.Stdin)
		return 7
	}
}
