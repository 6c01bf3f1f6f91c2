// Package monitor is the process that owns the socket and starts commands. It
// never reads a byte from the network. It is one thread with an event loop, so
// that nothing in it needs a lock.
package monitor

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
	"github.com/onewake/onewake/internal/logqueue"
	"github.com/onewake/onewake/internal/process"
	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/sandbox"
	"github.com/onewake/onewake/sock"
)

// spares is how many threads the monitor keeps besides those at work.
const spares = 8

// phase is what the monitor does.
type phase uint8

const (
	running  phase = iota
	draining       // a stop: nothing new gets in, what runs may end by itself
	ending         // everything is killed
)

// monitor is what Run keeps. All of it belongs to the goroutine of its loop.
type monitor struct {
	*cli.Config
	exe       string
	version   string
	queue     *logqueue.Queue
	log       *slog.Logger
	loop      *process.Loop
	sup       *process.Supervisor
	listeners []*sock.Listener
	began     time.Time

	table *scripts.Table // of -scripts, else nil
	read  time.Time      // when it was

	phase   phase
	cores   map[int]*core // by pid, until reaped
	current *core         // the one that serves, or is about to; nil between two
	next    *core         // one that is to take over
	again   bool          // another reload was asked for meanwhile

	failures int // cores in a row that were never ready
	backoff  time.Duration
	restarts int
	past     control.Stats // of cores that are gone
	started  bool          // the start record has been written

	idle  *process.Timer
	fatal error
}

// Run is the life of the monitor. It returns nil after a stop that was asked
// for; other errors are of package sock, of the system, or [control.ErrProtocol],
// and have been logged.
func Run(cfg *cli.Config, version string) error {
	// The loop's goroutine keeps this thread: the death of the thread that
	// forked is what Linux tells children as the death of their parent.
	runtime.LockOSThread()
	spareThreads(spares)
	// Small and flat: where fork(2) copies page tables its cost grows with us.
	debug.SetGCPercent(10)
	m := &monitor{Config: cfg, version: version, cores: make(map[int]*core), began: time.Now()}
	m.queue, m.log = logqueue.New(2, cfg.LogFormat == cli.JSON)
	defer m.queue.Close(time.Second)
	err := m.prepare()
	if err == nil {
		err = m.serve()
	}
	m.closeListeners()
	for _, e := range cli.Flatten(err) {
		m.log.Error("the service ends", "error", cli.Explain(e))
	}
	if err == nil {
		m.log.Info("stopped", "uptime", time.Since(m.began).Round(time.Millisecond).String())
	}
	return err
}

func (m *monitor) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.signals(cancel)
	if err := m.listen(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // a stop, before there was anything to stop
		}
		return err
	}
	m.notes()
	if err := m.startCore(); err != nil {
		return err
	}
	if err := m.loop.Run(); err != nil {
		return err
	}
	return m.fatal
}

// spareThreads has Go's runtime make n threads, which wait until they are
// needed. It would make them when it needs them, and ends the process if it
// cannot: a service that has used up its processes would take the monitor along.
func spareThreads(n int) {
	var held, done sync.WaitGroup
	release := make(chan struct{})
	held.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread() // no two on the same
			defer runtime.UnlockOSThread()
			held.Done()
			<-release
		})
	}
	held.Wait()
	close(release)
	done.Wait()
}

// prepare sets this process up.
func (m *monitor) prepare() (err error) {
	if m.exe, err = os.Executable(); err != nil {
		return err
	}
	closeOnExec()
	if err := process.DefaultSignals(); err != nil {
		return err
	}
	if err := sandbox.Untraceable(); err != nil {
		m.log.Warn("less protection than there could be", "error", err)
	}
	return m.assemble()
}

// assemble makes the parts.
func (m *monitor) assemble() (err error) {
	if m.loop, err = process.NewLoop(); err != nil {
		return err
	}
	if m.Scripts != "" {
		m.read = time.Now()
		if m.table, err = scripts.Read(m.Scripts); err != nil {
			return err
		}
	}
	m.sup, err = process.NewSupervisor(m.loop, m.log, process.Options{Max: m.MaxProcs, Timeout: m.Timeout, KillAfter: m.KillAfter})
	return err
}

// listen opens all listeners or none.
func (m *monitor) listen(ctx context.Context) error {
	var errs *multierror.Error
	for _, a := range m.Listen {
		l, err := m.Sock().Listen(ctx, a)
		if err != nil {
			errs = multierror.Append(errs, err)
			continue
		}
		m.listeners = append(m.listeners, l)
	}
	return errs.ErrorOrNil()
}

// closeListeners tells of what it cannot clean up. The second time it does
// nothing.
func (m *monitor) closeListeners() {
	for _, l := range m.listeners {
		m.close(l)
	}
}

func (m *monitor) close(l *sock.Listener) {
	for _, err := range cli.Flatten(l.Close()) {
		m.log.Warn(err.Error())
	}
}

// signals connects signals to the loop. One that comes before the loop runs
// waits for it; a stop ends the wait for a predecessor's lock, by cancel.
func (m *monitor) signals(cancel func()) {
	ch := make(chan os.Signal, 16)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	if runtime.GOOS != "linux" { // where this is another one
		signal.Notify(ch, syscall.Signal(29)) // SIGINFO
	}
	go func() {
		for s := range ch {
			if s == syscall.SIGTERM || s == syscall.SIGINT {
				cancel()
			}
			m.loop.Post(func() { m.signal(s) })
		}
	}()
}

func (m *monitor) signal(s os.Signal) {
	switch s {
	case syscall.SIGTERM, syscall.SIGINT:
		if m.phase != running {
			m.log.Info("stop at once", "signal", s.String())
			m.endNow()
			return
		}
		m.log.Info("stop", "signal", s.String(), "drain", m.Drain)
		m.stop()
	case syscall.SIGHUP:
		m.reload()
	default:
		m.status()
	}
}

// stop ends the service in good order. The file goes first, so that nobody
// new gets in; then the core answers whoever has got in; as soon as it has
// closed the listeners, address and lock are free for a successor.
func (m *monitor) stop() {
	m.phase = draining
	for _, l := range m.listeners {
		l.Unlink() // what keeps it from that, Close tells
		if l.LockFile() == nil {
			// Without a file nothing keeps clients from connecting. The
			// core's copy must be the last: it answers all whom the kernel
			// lets in, while ours would let in some that nobody accepts.
			m.close(l)
		}
	}
	for _, c := range m.cores {
		if c.state == starting {
			m.kill(c)
		} else if c.state != dead {
			c.state = retiring
			c.peer.Stop()
		}
	}
	if m.current == nil {
		m.closeListeners()
	}
	m.loop.After(m.Drain, func() {
		m.log.Warn("drain time is over, what still runs is ended", "running", m.sup.Running())
		m.endSoon()
	})
	m.endIfDone()
}

// endIfDone ends what is left when no core is, and then the loop.
func (m *monitor) endIfDone() {
	if len(m.cores) > 0 {
		return
	}
	m.closeListeners()
	m.endSoon()
	m.endWhenIdle()
}

// endSoon ends what still runs, and after a while everything.
func (m *monitor) endSoon() {
	m.sup.EndAll()
	m.loop.After(m.KillAfter, m.endNow)
}

// end ends the service because it cannot go on.
func (m *monitor) end(err error) {
	if m.fatal == nil {
		m.fatal = err
	}
	m.endNow()
}

// endNow kills everything.
func (m *monitor) endNow() {
	m.phase = ending
	m.closeListeners()
	for _, c := range m.cores {
		m.kill(c)
	}
	m.sup.KillAll()
	m.endWhenIdle()
}

// endWhenIdle ends the loop when nothing is left that we have started.
func (m *monitor) endWhenIdle() {
	if m.sup.Idle() && len(m.cores) == 0 {
		m.loop.End()
		return
	}
	if m.phase == ending {
		m.sup.KillAll() // also what has been born since
	}
	m.idle.Stop()
	m.idle = m.loop.After(5*time.Millisecond, m.endWhenIdle)
}
