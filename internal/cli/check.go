package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/scripts"
	"github.com/onewake/onewake/sock"
)

// CheckStart implements -check: it does everything that a start does before
// bind(2), and changes nothing. parseErr is the error of [Parse]. The results and
// warnings go to out. It is not an error if this service is running already.
func CheckStart(ctx context.Context, c *Config, parseErr error, out io.Writer) error {
	var errs *multierror.Error
	errs = multierror.Append(errs, Flatten(parseErr)...)
	if c == nil {
		return errs.ErrorOrNil()
	}
	if c.Path != "" && c.Path != c.Command[0] {
		fmt.Fprintf(out, "command %q: %s\n", c.Command[0], c.Path)
	}
	if c.Scripts != "" {
		listScripts(c, out)
	}
	for _, w := range c.warnings() {
		fmt.Fprintln(out, w)
	}
	for _, a := range c.Listen {
		note, err := c.Sock().Check(ctx, a)
		switch {
		case errors.Is(err, sock.ErrLocked):
			fmt.Fprintf(out, "%v: onewake is running\n", a)
		case err != nil:
			errs = multierror.Append(errs, err)
		case note != "":
			fmt.Fprintf(out, "%v: %s\n", a, note)
		}
	}
	if _, limit := c.OpenFiles(); limit < c.minOpenFiles() {
		errs = multierror.Append(errs, fmt.Errorf("the system allows %d open files, a start needs %d (ulimit -n)", limit, c.minOpenFiles()))
	}
	if errs.ErrorOrNil() == nil {
		fmt.Fprintln(out, "configuration is good")
	}
	return errs.ErrorOrNil()
}

// listScripts lists the scripts, and why other files are skipped.
func listScripts(c *Config, out io.Writer) {
	t, err := scripts.Read(c.Scripts)
	if err != nil {
		return // reported by Parse
	}
	for _, name := range t.Names() {
		if err := checkProgram(filepath.Join(c.Scripts, name)); err != nil {
			fmt.Fprintf(out, "script %s: cannot be run: %v\n", printable(name), err)
		} else {
			fmt.Fprintf(out, "script %s\n", printable(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(t.Skipped)) {
		fmt.Fprintf(out, "script %s: skipped: %v\n", printable(name), t.Skipped[name])
	}
}

// printable quotes a name with special characters, such as a line feed.
func printable(name string) string {
	if q := strconv.Quote(name); q[1:len(q)-1] != name {
		return q
	}
	return name
}

// warnings lists flags that are ignored, and limits that cannot be reached.
func (c *Config) warnings() (all []string) {
	warn := func(cond bool, text string) {
		if cond {
			all = append(all, text)
		}
	}
	fastCGI := c.Protocol == FastCGI
	warn(fastCGI && len(c.Forwarded) > 0, "-forwarded: ignored with -protocol fastcgi, where all parameters are trusted")
	warn(fastCGI && c.ScriptName != "" && c.Scripts == "", "-script-name: ignored with -protocol fastcgi, where the web server sends SCRIPT_NAME")
	warn(!fastCGI && len(c.Param) > 0, "-param: ignored without -protocol fastcgi")
	need, limit := c.OpenFiles()
	warn(need > limit, fmt.Sprintf("-max-conns %d: all limits together need up to %d open files, the system allows %d (ulimit -n)", c.MaxConns, need, limit))
	warn(c.CGI && c.Stream, "-stream: ignored with -cgi, where output is always sent as it comes")
	return all
}
