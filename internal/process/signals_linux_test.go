package process

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestSignals: the command has the default action for every signal and none
// blocked, although the monitor was started with some ignored and blocked.
func TestSignals(t *testing.T) {
	alone(t, func(t *testing.T) {
		own, _ := os.ReadFile("/proc/self/status")
		if !strings.Contains(string(own), "SigIgn:\t0000000000000001") && !signal.Ignored(syscall.SIGHUP) {
			t.Fatalf("this process should ignore SIGHUP\n%s", own)
		}
		done := make(chan struct{})
		go func() { // the thread of newRig's goroutine inherits from this one
			runtime.LockOSThread()
			set := unix.Sigset_t{}
			set.Val[0] = 1<<(unix.SIGTERM-1) | 1<<(unix.SIGUSR2-1)
			unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
			r := newRig(t, options)
			r.do(func() {
				unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil)
				if err := DefaultSignals(); err != nil {
					t.Error(err)
				}
			})
			c := r.start(&Command{Path: "/bin/grep", Args: []string{"grep", "^Sig[BI]", "/proc/self/status"}, Dir: "/"})
			b, _ := io.ReadAll(c.out.in)
			out := string(b)
			if want := "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"; out != want {
				t.Errorf("%q, want %q", out, want)
			}
			if b, err := os.ReadFile("/proc/self/status"); err != nil {
				t.Error(err)
			} else if caught := field(b, "SigCgt:"); caught == 0 || caught>>(firstRealTime-1) != 0 {
				t.Errorf("%#x have handlers: real-time signals make each start slower", caught)
			}
			close(done)
		}()
		<-done
	}, "/bin/sh", "-c", `trap '' HUP INT QUIT USR1 ALRM PIPE CHLD TSTP TTIN TTOU; exec "$0" "$@"`)
}

// field is a hexadecimal number in /proc/PID/status.
func field(status []byte, name string) (n uint64) {
	_, after, _ := strings.Cut(string(status), "\n"+name)
	fmt.Sscanf(after, "%x", &n)
	return n
}
