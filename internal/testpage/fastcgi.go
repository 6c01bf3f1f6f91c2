package testpage

import (
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cli"
)

// By FastCGI the web server gives parameters in place of a header, and is
// believed: what there is to say is which of them reach a command.

// expected are the parameters that a program may count on (RFC 3875 § 4.1) and
// that nobody but the web server knows.
var expected = []string{"QUERY_STRING", "REMOTE_ADDR", "REQUEST_METHOD", "SCRIPT_NAME", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL"}

// parameters are the names of all parameters, in the order in which they came:
// those that are variables, those that -param would make variables, and those
// that never are.
func (v *view) parameters() (passed, dropped, never []string) {
	names := v.Names()
	for _, f := range v.wire.Fields {
		list := &passed
		switch {
		case names.Allow(f.Name):
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

// lookAtParameters judges what the web server tells of the request.
func (v *view) lookAtParameters() {
	var missing []string
	for _, name := range expected {
		if _, ok := v.vars[name]; !ok {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		v.toMend("the web server did not give " + strings.Join(missing, ", ") + ", which CGI programs count on. nginx: `include fastcgi_params;`")
	}
	if _, dropped, _ := v.parameters(); len(dropped) > 0 {
		v.toKnow("not passed on: " + strings.Join(dropped, ", ") + ". If a command needs it, start onewake with `-param " + strings.Join(dropped, " -param ") + "`")
	}
}

// parametersSent tells what became of them.
func (v *view) parametersSent(w *writer) {
	passed, dropped, never := v.parameters()
	w.row("Passed on", strings.Join(passed, ", "), "with these values, below; of a repeated one the last counts")
	if len(dropped) > 0 {
		w.row("Not passed on", strings.Join(dropped, ", "), "would reach a command if `-param` named it")
	}
	if len(never) > 0 {
		w.row("Never passed on", strings.Join(never, ", "), "is fixed by `-env`, is never taken from a request, or is no name of a variable")
	}
}
