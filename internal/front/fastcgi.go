package front

import (
	"bufio"
	"encoding/binary"
	"log/slog"
	"sync"
	"time"

	"github.com/onewake/onewake/internal/control"
)

// The FastCGI Specification 1.0, §§ 3 to 8.
const (
	fcgiVersion    = 1
	fcgiHeader     = 8       // size of a record's header
	fcgiBuffer     = 4 << 10 // size of a connection's buffer
	fcgiMaxContent = 0xfff8  // largest content of a record that we send; needs no padding
	fcgiKeepConn   = 1       // flag of a begin record
	fcgiResponder  = 1       // role
	maxParams      = maxHead // largest size of the parameters of a request
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

// FastCGI is a server for FastCGI in the responder role. A connection serves one
// request at a time and may be kept. It is closed if it sends something
// malformed.
type FastCGI struct {
	Service
	Log *slog.Logger

	filter  *control.Filter
	once    sync.Once
	mu      sync.Mutex
	dropped map[string]bool // parameters that have been logged
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
		c.in = bufio.NewReaderSize(c, fcgiBuffer)
		c.SetReadDeadline(time.Now().Add(f.Times.Header))
		go c.serve()
	}
}

func appendRecord(b []byte, kind byte, id uint16, content []byte) []byte {
	b = append(b, fcgiVersion, kind)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	b = append(b, 0, 0) // no padding; reserved
	return append(b, content...)
}

func appendEnd(b []byte, id uint16, appStatus uint32, status byte) []byte {
	content := binary.BigEndian.AppendUint32(nil, appStatus)
	return appendRecord(b, fcgiEnd, id, append(content, status, 0, 0, 0))
}

// fcgiError says how a client violates the protocol.
type fcgiError string

func (e fcgiError) Error() string { return string(e) }

const errPairs fcgiError = "incomplete name-value pair"

// eachPair calls f for each name-value pair (§ 3.4).
func eachPair(b string, f func(name, value string)) error {
	for len(b) > 0 {
		var n [2]int
		for i := range n {
			switch {
			case len(b) >= 1 && b[0]&0x80 == 0:
				n[i], b = int(b[0]), b[1:]
			case len(b) >= 4:
				n[i], b = int(b[0]&0x7f)<<24|int(b[1])<<16|int(b[2])<<8|int(b[3]), b[4:]
			default:
				return errPairs
			}
		}
		if n[0] > len(b) || n[1] > len(b)-n[0] {
			return errPairs
		}
		f(b[:n[0]], b[n[0]:n[0]+n[1]])
		b = b[n[0]+n[1]:]
	}
	return nil
}
