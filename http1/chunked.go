package http1

import "bytes"

const (
	maxChunkLine = 4096     // a chunk-size line with its extensions
	maxExtension = 64 << 10 // all chunk-size lines of a body beyond their digits
	maxTrailer   = 16 << 10 // the trailer section
)

// chunks decodes the chunked transfer coding (RFC 9112 § 7.1), one call a
// piece. Chunk extensions and trailer fields are checked, bounded and dropped.
type chunks struct {
	left    int64 // of the chunk at hand
	state   int8
	scanned int // bytes of an unfinished line that hold no line end
	extra   int // bytes spent on extensions
	trailer int // bytes spent on trailer fields
}

const (
	chunkSize    int8 = iota // a chunk-size line comes next
	chunkData                // left bytes of data come next
	chunkDataEnd             // the CRLF after them
	chunkTrailer             // trailer fields, then an empty line
	chunkDone
)

// next looks at the bytes that have come and tells how many at their start to
// skip and how many after those are data. With both 0 and no error more must
// come first; done is set at the end of the body.
func (c *chunks) next(b []byte) (skip, data int, done bool, err *ProtocolError) {
	for {
		rest := b[skip:]
		switch c.state {
		case chunkData:
			n := min(c.left, int64(len(rest)))
			if c.left -= n; c.left == 0 {
				c.state = chunkDataEnd
			}
			return skip, int(n), false, nil
		case chunkDataEnd:
			if len(rest) > 0 && rest[0] != '\r' || len(rest) > 1 && rest[1] != '\n' {
				return 0, 0, false, refuse(400, "chunk is longer than its size")
			}
			if len(rest) < 2 {
				return skip, 0, false, nil
			}
			skip += 2
			c.state = chunkSize
		case chunkSize:
			line, ok, err := c.line(rest, maxChunkLine)
			if err != nil || !ok {
				return skip, 0, false, err
			}
			if err := c.size(line); err != nil {
				return 0, 0, false, err
			}
			skip += len(line) + 2
		case chunkTrailer:
			line, ok, err := c.line(rest, maxTrailer)
			if err != nil || !ok {
				return skip, 0, false, err
			}
			skip += len(line) + 2
			if len(line) == 0 {
				c.state = chunkDone
				continue
			}
			if c.trailer += len(line) + 2; c.trailer > maxTrailer {
				return 0, 0, false, refuse(431, "trailer too large")
			}
			if _, _, perr := splitField(line); perr != nil {
				return 0, 0, false, refuse(400, "malformed trailer field")
			}
		default:
			return skip, 0, true, nil
		}
	}
}

func (c *chunks) line(b []byte, limit int) ([]byte, bool, *ProtocolError) {
	i := bytes.IndexByte(b[min(c.scanned, len(b)):], '\n')
	if i < 0 {
		c.scanned = len(b)
		if len(b) > limit {
			return nil, false, refuse(400, "line in chunked body too long")
		}
		return nil, false, nil
	}
	i += c.scanned
	c.scanned = 0
	if i > limit {
		return nil, false, refuse(400, "line in chunked body too long")
	}
	if i == 0 || b[i-1] != '\r' || bytes.IndexByte(b[:i-1], '\r') >= 0 {
		return nil, false, refuse(400, "line in chunked body does not end in CRLF")
	}
	return b[:i-1], true, nil
}

func (c *chunks) size(line []byte) *ProtocolError {
	digits := line
	if i := bytes.IndexByte(line, ';'); i >= 0 {
		digits = line[:i]
		if c.extra += len(line) - i; c.extra > maxExtension {
			return refuse(400, "chunk extensions too large")
		}
		for _, b := range line[i:] {
			if b < ' ' && b != '\t' || b == 0x7f {
				return refuse(400, "control character in chunk extension")
			}
		}
	}
	if len(digits) == 0 || len(digits) > 15 {
		return refuse(400, "malformed chunk size")
	}
	var n int64
	for _, b := range digits {
		switch {
		case digit(b):
			n = n<<4 | int64(b-'0')
		case 'a' <= b|0x20 && b|0x20 <= 'f':
			n = n<<4 | int64(b|0x20-'a'+10)
		default:
			return refuse(400, "malformed chunk size")
		}
	}
	if c.left = n; n == 0 {
		c.state = chunkTrailer
	} else {
		c.state = chunkData
	}
	return nil
}
