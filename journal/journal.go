// Package journal writes log records the way a daemon must: one write(2) a
// record, at most [MaxRecord] bytes each, and never a wait for whoever reads
// the log.
//
// A [Journal] is a [log/slog] handler for two formats, text and JSON. Records
// go through a bounded queue to one writing goroutine; when the queue is full,
// because nobody reads the other end of standard error, records are dropped
// and counted, and the count is written as soon as writing works again.
//
// Every string value is quoted in both formats, since most of them were shaped
// by a client or by a command; one that is too long is cut and marked with the
// number of bytes left out. On Linux a record is shorter than PIPE_BUF, so that
// two processes that share a pipe never mix their lines (write(2), pipe(7)). On
// FreeBSD, where PIPE_BUF is 512, they can while a pipe is full, that is while
// nobody reads the log.
package journal

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// MaxRecord is the size of the longest record in bytes, newline included.
const MaxRecord = 2048

// queueLength is how many records wait for a slow reader before they are
// dropped: 2 MiB at the very most.
const queueLength = 1024

// Format is the notation of the records.
type Format int

// The two formats: key=value pairs as [slog.TextHandler] writes them, and one
// JSON object a line.
const (
	Text Format = iota
	JSON
)

// Journal is a [slog.Handler] that writes to one descriptor. Make one with
// [Open]; it may be used from any number of goroutines.
type Journal struct {
	*sink
	format Format
	attrs  []byte // of WithAttrs, encoded
	group  string // of WithGroup, with its dot
}

type sink struct {
	fd      int
	queue   chan *[]byte
	free    sync.Pool
	dropped atomic.Uint64
	lost    atomic.Uint64 // dropped in all, for Dropped
	done    chan struct{}
	quit    chan struct{}
	once    sync.Once
}

// Open starts a journal on an open descriptor, which it neither owns nor
// closes. Nothing is written but whole records.
func Open(fd int, format Format) *Journal {
	s := &sink{
		fd:    fd,
		queue: make(chan *[]byte, queueLength),
		free:  sync.Pool{New: func() any { b := make([]byte, 0, MaxRecord); return &b }},
		done:  make(chan struct{}),
		quit:  make(chan struct{}),
	}
	j := &Journal{sink: s, format: format}
	go j.write()
	return j
}

// Close writes what is queued and stops, waiting at most d for a reader.
// Records that come later are dropped.
func (j *Journal) Close(d time.Duration) {
	j.once.Do(func() { close(j.quit) })
	select {
	case <-j.done:
	case <-time.After(d):
	}
}

// Dropped tells how many records have been dropped since the start.
func (j *Journal) Dropped() uint64 { return j.lost.Load() }

// Enabled reports that records of level Info and above are written.
func (j *Journal) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// WithAttrs returns a journal on the same descriptor whose records begin with
// attrs.
func (j *Journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *j
	c.attrs = append([]byte(nil), j.attrs...)
	for _, a := range attrs {
		c.attrs = j.appendAttr(c.attrs, j.group, a)
	}
	return &c
}

// WithGroup returns a journal on the same descriptor whose keys begin with
// name and a dot.
func (j *Journal) WithGroup(name string) slog.Handler {
	if name == "" {
		return j
	}
	c := *j
	c.group += name + "."
	return &c
}

// Handle queues one record. It never blocks; its error is always nil, since a
// dropped record is counted and told later.
func (j *Journal) Handle(_ context.Context, r slog.Record) error {
	bp := j.free.Get().(*[]byte)
	*bp = j.encode((*bp)[:0], r)
	select {
	case j.queue <- bp:
	default:
		j.free.Put(bp)
		j.dropped.Add(1)
		j.lost.Add(1)
	}
	return nil
}

func (j *Journal) write() {
	defer close(j.done)
	for {
		select {
		case bp := <-j.queue:
			j.put(bp)
		case <-j.quit:
			for {
				select {
				case bp := <-j.queue:
					j.put(bp)
				default:
					return
				}
			}
		}
	}
}

func (j *Journal) put(bp *[]byte) {
	ok := writeAll(j.fd, *bp)
	j.free.Put(bp)
	if !ok {
		j.dropped.Add(1)
		j.lost.Add(1)
	}
	if n := j.dropped.Load(); ok && n > 0 {
		r := slog.NewRecord(time.Now(), slog.LevelWarn, "log records dropped", 0)
		r.AddAttrs(slog.Uint64("count", n))
		var b [256]byte
		if writeAll(j.fd, j.encode(b[:0], r)) {
			j.dropped.Add(-n)
		}
	}
}

// writeAll writes with the bare system call: os.File would end the program on
// a broken pipe behind descriptor 1 or 2 (os/signal, "SIGPIPE").
func writeAll(fd int, b []byte) bool {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		switch err {
		case nil:
			b = b[n:]
		case syscall.EINTR:
		case syscall.EAGAIN:
			// Somebody made the descriptor non-blocking; it is not ours
			// to change. Whoever waits is this goroutine alone.
			time.Sleep(10 * time.Millisecond)
		default:
			return false
		}
	}
	return true
}
