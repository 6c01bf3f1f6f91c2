package process

import (
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

// procstat(1) does not distinguish these from ignored ones.
var ignoredByDefault = []string{"URG", "CONT", "CHLD", "IO", "WINCH", "INFO"}

// TestSignals: the command has the default action for every signal and none
// blocked, although the monitor was started with some ignored and blocked.
func TestSignals(t *testing.T) {
	alone(t, func(t *testing.T) {
		if !signal.Ignored(syscall.SIGHUP) {
			t.Fatal("this process should ignore SIGHUP")
		}
		done := make(chan struct{})
		go func() { // the thread of newRig's goroutine inherits from this one
			defer close(done)
			runtime.LockOSThread()
			block := func() {
				set := [2]uint64{1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGUSR2-1)}
				syscall.RawSyscall(sysSigprocmask, 1, uintptr(unsafe.Pointer(&set)), 0) // SIG_BLOCK
			}
			block()
			r := newRig(t, options)
			r.do(func() {
				block()
				if err := DefaultSignals(); err != nil {
					t.Error(err)
				}
			})
			c := r.start(shell("echo; read x"))
			c.out.line()
			for _, flag := range []string{"-i", "-j"} {
				out, err := exec.Command("procstat", "-h", flag, strconv.Itoa(c.g.pid)).Output()
				if err != nil || len(out) == 0 {
					t.Errorf("procstat %s: %q, %v", flag, out, err)
				}
				for line := range strings.Lines(string(out)) {
					f := strings.Fields(line)
					if flags := f[len(f)-1]; strings.ContainsAny(flags, "IB") && !slices.Contains(ignoredByDefault, f[len(f)-2]) {
						t.Errorf("procstat %s: %s", flag, line)
					}
				}
			}
		}()
		<-done
	}, "/bin/sh", "-c", `trap '' HUP INT QUIT USR1 ALRM PIPE CHLD TSTP TTIN TTOU; exec "$0" "$@"`)
}
