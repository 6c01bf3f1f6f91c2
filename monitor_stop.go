package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// stop ends the service in good order. The file goes first, so that nobody
// new gets in; then the core answers whoever has got in; as soon as it has
// closed the listeners, address and lock are free for a successor.
func (m *monitor) stop() {
	m.stopping = true
	for _, l := range m.listeners {
		m.warn(l.Unlink())
		if l.LockFile() == nil {
			// Without a file nothing keeps clients from connecting. The
			// core's copy must be the last: it answers all whom the kernel
			// lets in, while ours would let in some that nobody accepts.
			m.warn(l.Close())
		}
	}
	for _, c := range m.cores {
		if c.ready {
			c.peer.Stop()
		} else {
			unix.Kill(c.pid, unix.SIGKILL)
		}
	}
	if m.serving == nil {
		m.closeListeners()
	}
	m.loop.After(m.o.drain, func() {
		m.log.Warn("drain time is over, what still runs is ended", "running", m.sup.Running())
		m.sup.EndAll()
		m.loop.After(m.o.killAfter, m.endNow)
	})
	m.endIfDone()
}

func (m *monitor) coreClosed(c *coreProcess) {
	if m.stopping && c == m.serving {
		m.closeListeners()
	}
}

// endIfDone ends the monitor when neither core nor command is left.
func (m *monitor) endIfDone() {
	if len(m.cores) > 0 {
		return
	}
	m.closeListeners()
	m.sup.EndAll()
	var wait func()
	wait = func() {
		if m.sup.Idle() {
			m.finish()
			return
		}
		m.loop.After(5*time.Millisecond, wait)
	}
	m.loop.After(m.o.killAfter, m.endNow)
	wait()
}

// end ends the service because it cannot go on.
func (m *monitor) end(err error) {
	m.fatal = err
	m.stopping = true
	m.closeListeners()
	for _, c := range m.cores {
		unix.Kill(c.pid, unix.SIGKILL)
	}
	m.loop.After(m.o.killAfter, m.endNow)
	m.endIfDone()
}

// endNow kills everything.
func (m *monitor) endNow() {
	m.killing = true
	m.closeListeners()
	for _, c := range m.cores {
		unix.Kill(c.pid, unix.SIGKILL)
	}
	m.sup.KillAll()
	rounds := 0
	var wait func()
	wait = func() {
		if rounds++; m.sup.Idle() && len(m.cores) == 0 || rounds > 200 {
			m.finish()
			return
		}
		m.sup.KillAll()
		m.loop.After(5*time.Millisecond, wait)
	}
	wait()
}

func (m *monitor) finish() {
	if m.done {
		return
	}
	m.done = true
	if m.fatal == nil {
		m.log.Info("stopped", "uptime", time.Since(m.began).Round(time.Millisecond).String())
	}
	m.loop.End()
}
