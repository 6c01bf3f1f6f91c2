package http1

import (
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/nbio"
)

// watch is a goroutine that waits for the client to go away.
type watch struct {
	stop atomic.Bool
	done chan struct{}
}

// WatchGone calls gone, once and on another goroutine, if the client goes away
// before [Exchange.Unwatch]. To be called when the body has been read; requests
// that follow (pipelining) are left alone.
//
// On a Unix socket a client that has only shut down its sending half is not
// gone: poll(2) reports POLLHUP for a closed peer alone. TCP cannot tell the
// two apart before the first write fails, so there the end of what the client
// sends counts as its end.
func (x *Exchange) WatchGone(gone func()) {
	if x.watch != nil || !x.bodyDone.Load() {
		return
	}
	w := &watch{done: make(chan struct{})}
	x.watch = w
	isUnix := x.Listener.Unix
	go func() {
		defer close(w.done)
		for !w.stop.Load() {
			err := x.rc.Read(func(fd uintptr) bool {
				return w.stop.Load() || isGone(int(fd), isUnix)
			})
			if w.stop.Load() {
				return
			}
			if err == nil {
				gone()
				return
			}
			if !os.IsTimeout(err) {
				return
			}
			x.nc.SetReadDeadline(time.Time{})
		}
	}()
}

// Unwatch ends what [Exchange.WatchGone] began, and waits until it has ended.
func (x *Exchange) Unwatch() {
	w := x.watch
	if w == nil {
		return
	}
	x.watch = nil
	w.stop.Store(true)
	x.nc.SetReadDeadline(time.Unix(1, 0))
	<-w.done
	x.nc.SetReadDeadline(time.Time{})
}

func isGone(fd int, isUnix bool) bool {
	revents := nbio.PollIn(fd)
	if revents&(unix.POLLHUP|unix.POLLERR) != 0 {
		return true
	}
	if isUnix || revents&unix.POLLIN == 0 {
		return false
	}
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK)
	return n == 0 && err == nil
}
