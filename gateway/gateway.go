// Package gateway answers HTTP requests with the output of a command, one
// process a request: by CGI/1.1 (RFC 3875), or with the command's raw output
// as the body.
//
// It starts nothing itself; a [spawn.Client] asks another process to. What it
// reads from the command and from the network, it reads in the process that
// may do nothing else.
package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/journal"
	"github.com/onewake/onewake/nbio"
	"github.com/onewake/onewake/spawn"
)

const (
	// maxRedirects is how many local redirects (RFC 3875 § 6.2.2) one request
	// may take.
	maxRedirects = 10
	// slowAfter is when a request is long enough for its client to be watched
	// and its stderr to be read before the end. Most are over before.
	slowAfter = 20 * time.Millisecond
	// quickTime is how long a command that has been quick so far is waited
	// for before its output is looked at; quickSize is up to how much output,
	// in bytes, it counts as quick. The pipe holds more than that.
	quickTime = 5 * time.Millisecond
	quickSize = 4 << 10
	// grace is how long an answer waits for what should come at once: the end
	// of stdout after the process's and, but for raw output, whose exit status
	// decides, the process's after that of stdout.
	grace = time.Second
	// maxStderr is how much of one process's stderr is logged, in bytes.
	maxStderr = 8 << 10
	// lastWords is how long what is left in stderr is read after the
	// process's end.
	lastWords = 50 * time.Millisecond
	// retryAfter is what an overloaded server asks clients to wait, in seconds.
	retryAfter = 1
)

// Gateway is a handler for [http1.Server]. Its fields are set before the first
// request and not changed afterwards.
type Gateway struct {
	Meta
	Client      *spawn.Client
	Log         slog.Handler
	CGI         bool          // the command speaks CGI/1.1; else its output is the body
	ContentType string        // of raw output
	Timeout     time.Duration // of one process, start to end
	MaxProcs    int           // processes at once
	MaxQueue    int           // requests waiting for one of those
	MaxBody     int64         // bytes of a request's body

	once    sync.Once
	queue   queue
	quick   atomic.Bool  // the last command was
	large   atomic.Bool  // the last command's output was
	memory  atomic.Int64 // bytes of bodies held in memory
	files   atomic.Int64 // files in use, for bodies and for backlogs
	streams atomic.Int64 // requests whose body is read while their process runs
	refused atomic.Uint64

	// The constants of the same names, unless a test sets others.
	grace, lastWords time.Duration
	began            func(*run) // for tests: called when the time of a command begins
}

// Record is what the access log tells about a request beyond its answer. The
// gateway leaves it in [http1.Exchange.Value].
type Record struct {
	Client  string        // of a believed X-Real-IP or X-Forwarded-For
	Queue   time.Duration // spent waiting for a slot
	ID      uint64        // of the last process, as in the records of its stderr
	Started bool          // a process was started
	Exited  bool          // and has ended, with Status
	Status  spawn.Status
	Ended   string // why it was ended early: "timeout", "client gone", …

	id    [maxRequestID]byte
	idLen int
}

// RequestID is the name of the request: a believed X-Request-Id, else one that
// was made up.
func (r *Record) RequestID() []byte { return r.id[:r.idLen] }

// record is the record of the request at hand, in the memory of the one before.
func record(x *http1.Exchange) *Record {
	r, _ := x.Scratch.(*Record)
	if r == nil {
		r = new(Record)
		x.Scratch = r
	}
	*r = Record{}
	x.Value = r
	return r
}

// vars and blocks are the memory of a request that a process runs for.
var (
	varsPool  = sync.Pool{New: func() any { return new(spawn.Vars) }}
	blockPool = sync.Pool{New: func() any { return new(http1.Block) }}
)

func (g *Gateway) init() {
	g.once.Do(func() {
		g.queue.max, g.queue.limit = g.MaxProcs, g.MaxQueue
		if g.grace == 0 {
			g.grace, g.lastWords = grace, lastWords
		}
	})
}

// Counts tells how many requests have a process now, how many wait for one,
// and how many have been refused for overload so far.
func (g *Gateway) Counts() (running, queued int, refused uint64) {
	g.init()
	running, queued = g.queue.counts()
	return running, queued, g.refused.Load()
}

// Serve answers one request.
func (g *Gateway) Serve(x *http1.Exchange) {
	g.init()
	vars := varsPool.Get().(*spawn.Vars)
	defer varsPool.Put(vars)
	rec := record(x)
	if perr := g.fill(vars, x, ownTarget(x), rec); perr != nil {
		x.Error(perr.Status, perr.Reason)
		return
	}
	if x.Length > g.MaxBody {
		x.Error(413, "body too large")
		return
	}
	if g.queue.full() {
		g.overload(x)
		return
	}
	b, ok := g.readBody(x)
	if !ok {
		return
	}
	defer b.close()
	if x.HasBody() {
		vars.Add("CONTENT_LENGTH", b.lengthString())
		if vars.TooLarge() {
			x.Error(431, "header too large for a command's environment")
			return
		}
	}
	for redirects := 0; ; redirects++ {
		r := &run{g: g, x: x, rec: rec, body: b}
		location := r.serve(vars, redirects > 0)
		if location == "" {
			return
		}
		if redirects == maxRedirects {
			x.Error(502, "too many local redirects")
			return
		}
		b.close()
		b = &body{}
		if perr := g.fill(vars, x, localTarget(location), rec); perr != nil {
			x.Error(perr.Status, perr.Reason)
			return
		}
	}
}

func (g *Gateway) overload(x *http1.Exchange) {
	g.refused.Add(1)
	x.ErrorRetry(503, "too many requests are waiting", retryAfter)
}

var get = []byte("GET")

// localTarget is what a local redirect asks for: a GET without a body
// (RFC 3875 § 6.2.2).
func localTarget(location string) target {
	t := target{method: get, uri: []byte(location), local: true}
	t.path = t.uri
	for i, c := range t.uri {
		if c == '?' {
			t.path, t.query = t.uri[:i], t.uri[i+1:]
			break
		}
	}
	return t
}

const (
	eventSlot = spawn.EventUser + iota // a slot is free
	eventStop                          // run.stop says why
	eventLong                          // not as quick as was thought
)

// reason is why a run is ended before its time.
type reason uint8

const (
	none reason = iota
	timedOut
	clientGone
	serviceGone
)

func (r reason) String() string {
	return [...]string{"", "timeout", "client gone", "service gone"}[r]
}

// run is one process for one request. The connection's goroutine does the
// work; a timer, the watch on the client and the reader of the control socket
// interrupt it.
type run struct {
	g    *Gateway
	x    *http1.Exchange
	rec  *Record
	body *body
	p    *spawn.Process

	queued bool // of queue.mu

	mu       sync.Mutex
	timer    *time.Timer
	deadline time.Time // zero before the process has been started
	quick    bool      // the first tick is eventLong
	slow     bool
	answered bool // the client has its whole answer, or what is left is its own time
	overran  bool // the command was ended at its timeout after that
	finished bool
	stop     reason
	exited   bool
	stdout   *os.File
	stderr   *stderr
	pump     *pump
	stdin    *os.File // the pump has left it, and it is closed when the process is gone

	started bool
	ended   bool   // End has been sent
	eof     bool   // the output has ended
	late    int    // bytes read after the end of the grace
	more    []byte // output that has been read and comes after what is being sent
	backlog backlog
}

// tell sends an event that must not be lost; there is always room.
func (r *run) tell(k spawn.EventKind) {
	select {
	case r.p.Events <- spawn.Event{Kind: k}:
	default:
	}
}

// interrupt ends whatever the run waits for.
func (r *run) interrupt(why reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.finished || r.stop != none || r.answered && why == clientGone || r.exited && why == timedOut {
		return
	}
	r.stop = why
	if r.stdout != nil {
		r.stdout.SetReadDeadline(time.Unix(1, 0))
	}
	r.tell(eventStop)
}

// stillQuick tells whether eventLong, or eventStop, is yet to come.
func (r *run) stillQuick() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.quick && r.stop == none
}

// done notes that the client has all it asked for, and may leave.
func (r *run) done() {
	r.mu.Lock()
	r.answered = true
	overdue := r.stop == timedOut && !r.exited
	r.mu.Unlock()
	if overdue {
		r.end(timedOut.String())
	}
}

func (r *run) stopped() reason {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop
}

// exit is called by the reader of the control socket: the process is gone, so
// its slot is free, and its stdout should end at once.
func (r *run) exit(spawn.Event) {
	r.mu.Lock()
	r.exited = true
	if r.stdout != nil && r.stop == none {
		r.stdout.SetReadDeadline(time.Now().Add(r.g.grace))
	}
	if r.stdin != nil {
		r.stdin.Close()
	}
	r.mu.Unlock()
	r.g.queue.release()
}

// tick is the run's timer: first for the things that only a long request
// needs, then for its timeout.
func (r *run) tick() {
	r.mu.Lock()
	if r.finished {
		r.mu.Unlock()
		return
	}
	if r.quick {
		r.quick = false
		r.tell(eventLong)
		r.timer.Reset(slowAfter - quickTime)
		r.mu.Unlock()
		return
	}
	if !r.slow {
		r.slow = true
		r.watchClient()
		if r.stdout != nil {
			r.readStderr()
		}
	}
	if !r.deadline.IsZero() {
		if left := time.Until(r.deadline); left > 0 {
			r.timer.Reset(left)
		} else {
			r.mu.Unlock()
			r.interrupt(timedOut)
			r.overdue()
			return
		}
	}
	r.mu.Unlock()
}

// overdue ends a command that has gone on after its output, at its timeout:
// whoever gives a slow client the last part of the answer has not the time for
// that.
func (r *run) overdue() {
	r.mu.Lock()
	over := r.answered && !r.finished && !r.exited
	r.overran = r.overran || over
	r.mu.Unlock()
	if over { // not under the lock, which exit wants; to end it twice does no harm
		r.g.Client.End(r.p)
	}
}

// watchClient wants r.mu.
func (r *run) watchClient() {
	if r.slow && !r.finished {
		r.x.WatchGone(func() { r.interrupt(clientGone) })
	}
}

// readStderr wants r.mu.
func (r *run) readStderr() {
	if r.stderr == nil && r.p.Stderr >= 0 {
		r.stderr = newStderr(r)
	}
}

// serve runs the command and answers with what it says. It returns the target
// of a local redirect, or "".
func (r *run) serve(vars *spawn.Vars, continues bool) (location string) {
	g, x := r.g, r.x
	r.p = g.Client.New(r.body.any())
	r.p.OnExit = r.exit
	began := time.Now()
	queued, ok := g.queue.enter(r, continues)
	if !ok {
		g.overload(x)
		return ""
	}
	// A command with a body waits for it, and so for EventStarted.
	r.p.Lazy = g.quick.Load() && !r.body.any()
	first := slowAfter
	r.mu.Lock()
	if r.p.Lazy && !queued {
		r.quick, first = true, quickTime
	}
	r.timer = time.AfterFunc(first, r.tick)
	r.mu.Unlock()
	defer r.finish()
	if queued {
		if !r.waitSlot() {
			return ""
		}
		if r.p.Lazy {
			r.mu.Lock()
			r.quick = true
			r.timer.Reset(quickTime)
			r.mu.Unlock()
		}
	}
	r.rec.Queue += time.Since(began)
	began = time.Now() // the command's own time from here on
	if err := g.Client.Start(r.p, vars); err != nil {
		g.queue.release()
		r.fail(err)
		return ""
	}
	if e := r.waitStart(); e.Kind == spawn.EventFailed {
		r.fail(e.Errno)
		return ""
	}
	r.started = true
	r.rec.ID, r.rec.Started, r.rec.Exited = r.p.ID, true, false
	if g.large.Load() {
		nbio.GrowPipe(r.p.Stdout, streamPipe) // before it is full
	}
	r.feed()
	b := blockPool.Get().(*http1.Block)
	defer blockPool.Put(b)
	n, whole := 0, false
	if r.stillQuick() {
		n, whole = r.waitQuick(b)
	}
	if !whole {
		r.begin()
	}
	switch {
	case g.CGI:
		location = r.cgi(b, n, whole)
	case whole:
		r.rawEnd(b, n)
	default:
		r.raw(b, n)
	}
	g.large.Store(r.x.Sent > streamPipe)
	g.quick.Store(r.rec.Exited && r.x.Sent <= quickSize && time.Since(began) < quickTime)
	return location
}

// waitSlot waits for a slot, or for the client to lose patience.
func (r *run) waitSlot() bool {
	for {
		switch e := <-r.p.Events; e.Kind {
		case eventSlot:
			return true
		case eventStop:
			if !r.g.queue.leave(r) {
				r.g.queue.release()
			}
			r.rec.Ended = r.stopped().String()
			r.x.Cut()
			return false
		}
	}
}

// waitStart waits for the pipes. A client that goes away meanwhile has to wait
// for them too: they must be closed by somebody.
func (r *run) waitStart() spawn.Event {
	for {
		switch e := <-r.p.Events; e.Kind {
		case spawn.EventStarted, spawn.EventFailed:
			return e
		}
	}
}

// begin takes the pipe over and starts the clock of the timeout.
func (r *run) begin() {
	if r.g.began != nil {
		defer r.g.began(r)
	}
	f := os.NewFile(uintptr(r.p.Stdout), "stdout")
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stdout = f
	r.deadline = time.Now().Add(r.g.Timeout)
	if r.slow {
		r.timer.Reset(r.g.Timeout)
		r.readStderr()
	}
	switch {
	case r.stop != none:
		f.SetReadDeadline(time.Unix(1, 0))
	case r.exited:
		f.SetReadDeadline(time.Now().Add(r.g.grace))
	}
}

// fail answers for a command that could not be started.
func (r *run) fail(err error) {
	r.log(slog.LevelError, "command cannot be started", slog.String("error", err.Error()))
	switch {
	case spawn.IsTemporary(err):
		r.x.ErrorRetry(503, "no process can be started now", retryAfter)
	case errors.Is(err, syscall.ECANCELED): // the time of a drain is over
		r.x.ErrorRetry(503, "the service is ending", retryAfter)
	case errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF):
		r.x.Cut() // the service is ending
	default:
		r.x.Error(502, "the command cannot be started")
	}
}

// finish ends what belongs to the run. The process may live on for a moment,
// if it had to be ended.
func (r *run) finish() {
	r.mu.Lock()
	r.finished = true
	r.timer.Stop()
	stdout, errs, pump := r.stdout, r.stderr, r.pump
	if r.overran && r.rec.Ended == "" {
		r.rec.Ended = timedOut.String()
	}
	r.mu.Unlock()
	r.x.Unwatch()
	if r.started && !r.gone() {
		r.end("lingered") // the answer is over, and so is the process
	}
	if stdout != nil {
		stdout.Close()
	} else if r.p.Stdout >= 0 {
		nbio.Close(r.p.Stdout)
	}
	if pump != nil {
		r.leave(pump)
	}
	r.backlog.close(r.g)
	switch {
	case errs != nil:
		errs.finish()
	case r.p.Stderr >= 0:
		logRest(r)
	}
}

// end has the process group ended, once.
func (r *run) end(why string) {
	if r.rec.Ended == "" {
		r.rec.Ended = why
	}
	if !r.ended {
		r.ended = true
		r.g.Client.End(r.p)
	}
}

// wait waits for the end of the process, at most d if that is not 0. It
// returns false if it had to give up; the reason is in r.stop then, or none
// if d has passed.
func (r *run) wait(d time.Duration) bool {
	var after <-chan time.Time
	if d > 0 && !r.gone() {
		t := time.NewTimer(d)
		defer t.Stop()
		after = t.C
	}
	for !r.rec.Exited {
		select {
		case e := <-r.p.Events:
			switch e.Kind {
			case spawn.EventExited:
				r.rec.Exited, r.rec.Status = true, e.Status
				return true
			case spawn.EventFailed:
				r.interrupt(serviceGone)
				return false
			case eventStop:
				return false
			}
		case <-after:
			return false
		}
	}
	return true
}

func (r *run) gone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.exited
}

// log writes a record about a request, with its id.
func (g *Gateway) log(rec *Record, level slog.Level, msg string, attrs ...slog.Attr) {
	if !g.Log.Enabled(context.Background(), level) {
		return
	}
	record := slog.NewRecord(time.Now(), level, msg, 0)
	record.AddAttrs(attrs...)
	record.AddAttrs(slog.String("request_id", string(rec.RequestID())))
	g.Log.Handle(context.Background(), record)
}

// log writes a record about the run's process.
func (r *run) log(level slog.Level, msg string, attrs ...slog.Attr) {
	r.g.log(r.rec, level, msg, slices.Insert(attrs, 0, slog.Uint64("id", r.p.ID))...)
}

// fit cuts b to what one log record can hold.
func fit(b []byte) []byte { return b[:journal.Fit(b, 1500)] }
