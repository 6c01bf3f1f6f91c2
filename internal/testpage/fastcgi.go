package testpage

import (
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cli"
)

// With FastCGI the web server sends parameters instead of a header. They are
// trusted. The page shows which of them a command gets.

// expected are the parameters that CGI programs need (RFC 3875 § 4.1) and that only
// the web server knows.
var expected = []string{"QUERY_STRING", "REMOTE_ADDR", "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"}

// parameters returns the names of all parameters, in their order: those that a
// command gets, those that it would get with -param, and those that it never gets.
func (v *view) parameters() (passed, dropped, never []string) {
	filter := v.Filter()
	for _, f := range v.wire.Fields {
		list := &passed
		switch {
		case filter.Allows(f.Name):
		case cli.BadParam(f.Name) != "" || slices.ContainsFunc(v.Env, func(s string) bool { return strings.HasPrefix(s, f.Name+"=") }):
			list = &never
		default:
			list = &dropped
		}
		if !slices.Contains(*list, f.Name) {
			*list = append(*list, f.Name)
		}
	}
	return passed, dropped, never
}

// checkParameters reports missing and dropped parameters.
func (v *view) checkParameters() {
	var missing []string
	for _, name := range expected {
		if _, ok := v.vars[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		v.problem("the web server did not send " + strings.Join(missing, ", ") + ", which CGI programs need. nginx: `include fastcgi_params;`")
	}
	if _, dropped, _ := v.parameters(); len(dropped) > 0 {
		v.note("not passed on: " + strings.Join(dropped, ", ") + ". If a command needs it, start onewake with `-param " + strings.Join(dropped, " -param ") + "`")
	}
}

// listParameters shows which parameters a command gets.
func (v *view) listParameters(w *writer) {
	passed, dropped, never := v.parameters()
	w.row("Passed on", strings.Join(passed, ", "), "the values are below; the last of repeated ones counts")
	if len(dropped) > 0 {
		w.row("Not passed on", strings.Join(dropped, ", "), "`-param` passes it on")
	}
	if len(never) > 0 {
		w.row("Never passed on", strings.Join(never, ", "), "set by `-env`, never taken from a request, or not a variable name")
	}
}
