package front

import (
	"bufio"
	"log/slog"
	"sync"
	"time"

	"github.com/onewake/onewake/internal/control"
)

// What follows is the FastCGI Specification 1.0, §§ 3 to 8.
const (
	fcgiVersion    = 1
	fcgiHeader     = 8       // of a record, in bytes
	fcgiBuffer     = 4 << 10 // of a connection, in bytes
	fcgiMaxContent = 0xfff8  // of a record that we send: no padding is needed
	fcgiKeepConn   = 1       // a flag of a begin record
	fcgiResponder  = 1       // the role
	maxParams      = maxHead // of a request, in bytes
)

// Types of records.
const (
	fcgiBegin     = 1
	fcgiAbort     = 2
	fcgiEnd       = 3
	fcgiParams    = 4
	fcgiStdin     = 5
	fcgiStdout    = 6
	fcgiGetValues = 9
	fcgiResult    = 10
	fcgiUnknown   = 11
)

// Protocol statuses of an end record.
const (
	fcgiComplete    = 0
	fcgiCantMpx     = 1
	fcgiUnknownRole = 3
)

// FastCGI is the front that speaks FastCGI as a responder: one request at a time
// on a connection, which may be kept. Nothing on the way is guessed; what is
// malformed ends the connection.
type FastCGI struct {
	Service
	Log *slog.Logger

	filter  *control.Filter
	once    sync.Once
	mu      sync.Mutex
	dropped map[string]bool // parameters whose loss has been logged
}

// Serve serves a listener until it is closed.
func (f *FastCGI) Serve(l *Listener) error {
	f.once.Do(func() { f.filter, f.dropped = f.Filter(), make(map[string]bool) })
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		c := &fcgiConn{f: f, conn: nc.(*conn)}
		c.in = bufio.NewReaderSize(c, fcgiBuffer) // most requests come in one piece
		c.SetReadDeadline(time.Now().Add(f.Times.Header))
		go c.read()
	}
}
