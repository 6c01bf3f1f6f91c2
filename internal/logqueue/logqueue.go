// Package logqueue lets a daemon log without ever waiting for whoever reads its
// log: a [Queue] is the writer below [log/slog]'s own handlers. Each record is
// one write(2). Those that nobody takes in time are dropped and counted, and the
// count is logged as soon as writing works again.
package logqueue

import (
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	// maxRecords and maxBytes are how much waits for a slow reader.
	maxRecords = 4096
	maxBytes   = 1 << 20
	// maxValue is how much of one value is logged, in bytes as they are written:
	// most values were shaped by a client or by a command.
	maxValue = 512
)

// Queue is an [io.Writer] that never waits. Each Write is one record.
type Queue struct {
	w       io.Writer
	records chan []byte
	bytes   atomic.Int64 // that wait
	dropped atomic.Uint64
	told    uint64 // of dropped
	own     *slog.Logger
	quit    chan struct{}
	done    chan struct{}
	once    sync.Once
}

// New makes a logger that writes records of level Info and above, as JSON or as
// text, and the queue that it writes to: by way of an open descriptor, which is
// neither owned nor closed.
func New(fd int, json bool) (*Queue, *slog.Logger) { return start(descriptor(fd), json) }

func start(w io.Writer, json bool) (*Queue, *slog.Logger) {
	q := &Queue{w: w, own: slog.New(handler(w, json)), records: make(chan []byte, maxRecords), quit: make(chan struct{}), done: make(chan struct{})}
	go q.write()
	return q, slog.New(handler(q, json))
}

// handler is one of log/slog's, with times in UTC, durations in seconds and
// values that are cut.
func handler(w io.Writer, json bool) slog.Handler {
	o := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		switch a.Value.Kind() {
		case slog.KindTime:
			a.Value = slog.TimeValue(a.Value.Time().UTC())
		case slog.KindDuration:
			a.Value = slog.AnyValue(seconds(a.Value.Duration().Seconds()))
		case slog.KindString:
			a.Value = slog.StringValue(cut(a.Value.String()))
		case slog.KindAny:
			if err, ok := a.Value.Any().(error); ok {
				a.Value = slog.StringValue(cut(err.Error()))
			}
		}
		return a
	}}
	if json {
		return slog.NewJSONHandler(w, o)
	}
	return slog.NewTextHandler(w, o)
}

// seconds are written with six decimals and without an exponent.
type seconds float64

func (s seconds) MarshalText() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(s), 'f', 6, 64), nil
}

func (s seconds) MarshalJSON() ([]byte, error) { return s.MarshalText() }

// cut shortens a value so that it takes at most maxValue bytes and a mark, with
// what is not printable counted as the longer of the two notations escapes it:
// \u202e in six bytes, \U0010ffff in ten.
func cut(s string) string {
	size := 0
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '"' || r == '\\':
			size += 2
		case strconv.IsPrint(r) && r != utf8.RuneError:
			size += n
		case r > 0xffff:
			size += 10
		default:
			size += 6
		}
		if size > maxValue {
			return s[:i] + " [" + strconv.Itoa(len(s)-i) + " more bytes]"
		}
		i += n
	}
	return s
}

// Write queues one record. It never waits; if the record does not fit the queue
// it is dropped and counted.
func (q *Queue) Write(p []byte) (int, error) {
	n := int64(len(p))
	if q.bytes.Add(n) > maxBytes {
		q.bytes.Add(-n)
		q.dropped.Add(1)
		return len(p), nil
	}
	select {
	case q.records <- append([]byte(nil), p...):
	default:
		q.bytes.Add(-n)
		q.dropped.Add(1)
	}
	return len(p), nil
}

// Dropped tells how many records have been dropped since the start.
func (q *Queue) Dropped() uint64 { return q.dropped.Load() }

// Close writes what is queued and stops, waiting at most d for a reader.
func (q *Queue) Close(d time.Duration) {
	q.once.Do(func() { close(q.quit) })
	select {
	case <-q.done:
	case <-time.After(d):
	}
}

func (q *Queue) write() {
	defer close(q.done)
	for {
		select {
		case p := <-q.records:
			q.put(p)
		case <-q.quit:
			for {
				select {
				case p := <-q.records:
					q.put(p)
				default:
					return
				}
			}
		}
	}
}

func (q *Queue) put(p []byte) {
	_, err := q.w.Write(p)
	q.bytes.Add(-int64(len(p)))
	if err != nil {
		q.dropped.Add(1)
		return
	}
	if n := q.dropped.Load(); n > q.told {
		q.own.Warn("log records dropped", "count", n-q.told)
		q.told = n
	}
}

// descriptor writes with the bare system call: os.File would end the program on
// a broken pipe behind descriptor 1 or 2 (os/signal, "SIGPIPE").
type descriptor int

func (fd descriptor) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n, err := syscall.Write(int(fd), rest)
		switch {
		case err == nil:
			rest = rest[n:]
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.EAGAIN):
			// Somebody made the descriptor non-blocking; it is not ours to
			// change. Whoever waits is this goroutine alone.
			time.Sleep(10 * time.Millisecond)
		default:
			return len(p) - len(rest), err
		}
	}
	return len(p), nil
}
