package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/sock"
)

// check checks everything that a start would and changes nothing. All problems
// are in the error at once, those of the command line (wrong) included. What is
// none is printed, such as our own server that is running.
func check(w io.Writer, o *options, wrong error) error {
	var errs *multierror.Error
	errs = multierror.Append(errs, flatten(wrong)...)
	for _, d := range o.doubts {
		fmt.Fprintln(w, d)
	}
	if o.path != "" && o.path != o.command[0] {
		fmt.Fprintf(w, "command %q: %s\n", o.command[0], o.path)
	}
	for _, a := range o.listen {
		done := sayIfSlow("still checking %v", a)
		note, err := sock.Check(a, o.perms)
		done()
		switch {
		case errors.Is(err, sock.ErrLocked):
			fmt.Fprintf(w, "%v: a server of ours is running\n", a)
		case errors.Is(err, sock.ErrInUse) && isOurs(a):
			fmt.Fprintf(w, "%v: an onewake is running\n", a)
		case err != nil:
			errs = multierror.Append(errs, err)
		case note != "":
			fmt.Fprintf(w, "%v: %s\n", a, note)
		}
	}
	if err := errs.ErrorOrNil(); err != nil {
		return err
	}
	fmt.Fprintln(w, "configuration is good")
	return nil
}

// sayIfSlow says what is being done if it is not done within a second.
func sayIfSlow(format string, args ...any) (done func()) {
	t := time.AfterFunc(time.Second, func() { fmt.Fprintf(os.Stderr, "onewake: "+format+"\n", args...) })
	return func() { t.Stop() }
}

// serverField is what every answer of a core says in its Server field.
const serverField = "onewake"

// reachable is an address to connect to: FreeBSD 15 does not take the wildcard
// for this machine.
func reachable(a sock.Addr) string {
	host, port, err := net.SplitHostPort(a.Address)
	switch ip := net.ParseIP(host); {
	case err != nil || ip != nil && !ip.IsUnspecified() || ip == nil && host != "":
		return a.Address
	case a.Network == sock.TCP4:
		return net.JoinHostPort("127.0.0.1", port)
	default:
		return net.JoinHostPort("::1", port)
	}
}

// isOurs asks whoever serves at a TCP address, where no lock tells, what it
// is. It sends what every server refuses.
func isOurs(a sock.Addr) bool {
	if a.Network != sock.TCP4 && a.Network != sock.TCP6 {
		return false
	}
	c, err := net.DialTimeout(a.Network, reachable(a), time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	defer sayIfSlow("still asking the server at %v what it is, for 2 seconds at most", a)()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write([]byte("CHECK * HTTP/1.1\r\nHost: check\r\nConnection: close\r\n\r\n")); err != nil {
		return false
	}
	for s := bufio.NewScanner(c); s.Scan() && s.Text() != ""; {
		if strings.EqualFold(s.Text(), "Server: "+serverField) {
			return true
		}
	}
	return false
}
