// Package httpapi holds the manners of every route, whoever serves it: who is let
// in (Guard), how many may be connected (Connections), the shape of errors and of
// JSON.
//
// A Handler returns the error to answer with. One that is an Error already says
// its status and code; any other is answered with internal_error and logged.
// Who knows an error better puts it into an Error before the guard sees it.
package httpapi
