package gateway

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"github.com/onewake/onewake/http1"
)

// Forwarded is the set of header fields that the web server in front sets
// itself, and that are believed for that reason alone.
type Forwarded uint8

// The fields that can be believed.
const (
	XRealIP         Forwarded = 1 << iota // the client's address
	XForwardedFor                         // its last element is the client's address
	XForwardedProto                       // http or https
	XForwardedHost                        // the host that the client asked for
	XRequestID                            // the name of the request in all logs
)

// forwardedFields is in the order in which the fields are taken: X-Real-IP
// wins over X-Forwarded-For.
var forwardedFields = [...]struct {
	name string
	bit  Forwarded
	take func(*facts, []byte) bool // false: not of its kind
	kind string
}{
	{"X-Forwarded-For", XForwardedFor, func(f *facts, v []byte) bool { return f.setAddr(lastElement(v)) }, "a list that ends in an IP address"},
	{"X-Real-IP", XRealIP, (*facts).setAddr, "an IP address"},
	{"X-Forwarded-Proto", XForwardedProto, (*facts).setProto, "http or https"},
	{"X-Forwarded-Host", XForwardedHost, (*facts).setHost, "a host, with a port or without"},
	{"X-Request-Id", XRequestID, (*facts).setID, "1 to 128 visible ASCII characters"},
}

// maxRequestID is the length of the longest X-Request-Id in bytes.
const maxRequestID = 128

// ParseForwarded parses a comma-separated list of field names, in any case.
func ParseForwarded(list string) (Forwarded, error) {
	var set Forwarded
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name == "" {
			continue
		}
		bit := forwardedBit([]byte(name))
		if bit == 0 {
			return 0, fmt.Errorf("%q is not one of X-Real-IP, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id", name)
		}
		set |= bit
	}
	return set, nil
}

// forwardedBit is the bit of a field's name, 0 for one that is never believed.
func forwardedBit(name []byte) Forwarded {
	for i := range forwardedFields {
		if http1.EqualFold(name, forwardedFields[i].name) {
			return forwardedFields[i].bit
		}
	}
	return 0
}

// facts are what believed fields say.
type facts struct {
	addr, host string
	hostPort   string // with host, may be empty
	https      bool
	id         []byte
}

// believed takes what the believed fields say. Of a repeated one the last
// counts, and likewise of a list: that is what the nearest server has added. A
// value that is not of its kind is refused: the web server is not set up as
// its administrator thinks, and a made-up address in the log would hide it.
func (m *Meta) believed(x *http1.Exchange) (facts, *http1.ProtocolError) {
	if m.Forwarded == 0 {
		return facts{}, nil // and nothing is allocated
	}
	return m.takeBelieved(x)
}

func (m *Meta) takeBelieved(x *http1.Exchange) (f facts, perr *http1.ProtocolError) {
	for i := range forwardedFields {
		t := &forwardedFields[i]
		if m.Forwarded&t.bit == 0 {
			continue
		}
		for j := len(x.Fields) - 1; j >= 0; j-- {
			if !http1.EqualFold(x.Fields[j].Name, t.name) {
				continue
			}
			if !t.take(&f, x.Fields[j].Value) && perr == nil {
				perr = &http1.ProtocolError{Status: 400, Reason: t.name + " is not " + t.kind}
			}
			break
		}
	}
	return f, perr
}

func lastElement(list []byte) []byte {
	return http1.TrimSpace(list[bytes.LastIndexByte(list, ',')+1:])
}

// setAddr takes an address, with or without a port. A client on a Unix socket
// has none; nginx writes it so.
func (f *facts) setAddr(value []byte) bool {
	s := string(value)
	if s == "unix:" {
		f.addr = http1.NoAddr
		return true
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		ap, err := netip.ParseAddrPort(s)
		if err != nil {
			return false
		}
		a = ap.Addr()
	}
	f.addr = a.String()
	return a.Zone() == ""
}

func (f *facts) setProto(value []byte) bool {
	value = lastElement(value)
	f.https = http1.EqualFold(value, "https")
	return f.https || http1.EqualFold(value, "http")
}

// setHost takes a host with or without a port.
func (f *facts) setHost(value []byte) bool {
	s, port := string(lastElement(value)), ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && i > strings.LastIndexByte(s, ']') {
		if _, err := strconv.ParseUint(s[i+1:], 10, 16); err != nil {
			return false
		}
		s, port = s[:i], s[i+1:]
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !a.Is6() || a.Zone() != "" || !strings.HasSuffix(s, "]") {
			return false
		}
	} else if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return !('a' <= r|0x20 && r|0x20 <= 'z' || '0' <= r && r <= '9' || strings.ContainsRune("-._", r))
	}) {
		return false
	}
	f.host, f.hostPort = s, port
	return true
}

func (f *facts) setID(value []byte) bool {
	if len(value) == 0 || len(value) > maxRequestID || bytes.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return false
	}
	f.id = value
	return true
}

// port is SERVER_PORT of a believed host.
func (f *facts) port() string {
	switch {
	case f.hostPort != "":
		return f.hostPort
	case f.https:
		return "443"
	}
	return "80"
}

// makeRequestID makes up a name that no other request has, and tells its
// length: 128 random bits, as nginx's $request_id. It need not be secret, and
// costs no system call.
func makeRequestID(id []byte) int {
	var b [16]byte
	binary.NativeEndian.PutUint64(b[:], rand.Uint64())
	binary.NativeEndian.PutUint64(b[8:], rand.Uint64())
	return hex.Encode(id, b[:])
}
