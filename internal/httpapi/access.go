package httpapi

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"strings"
)

// A Key lets one caller in.
type Key struct{ Name, Key string }

// An Access says who is let in, and what they see.
type Access struct {
	Keys   []Key    // clients'; none: everybody is one, by address
	Admins []Key    // who sees everything; none: see judge
	Hosts  []string // in lower case, beside the loopback names; none: on loopback those only, else any

	Origins Origins // web pages that may call the API
}

// A Caller is who sent a request.
type Caller struct {
	Name  string // of its key, else its address
	Keyed bool   // by one of the clients' keys: its sessions are its own
	Sees  Sight
}

// Owner is the client whose sessions the caller's requests belong to, "" for nobody: an address
// is no proof of who somebody is.
func (c Caller) Owner() string {
	if c.Keyed {
		return c.Name
	}
	return ""
}

// A Sight is how much of what is recorded a caller sees.
type Sight uint8

// Sights, from the narrowest to the widest.
const (
	SeesOwn        Sight = iota // what the caller's own key has done
	SeesTotals                  // besides, sums over all clients that name none
	SeesEverything              // of everybody
)

// An Audience is who may ask for a route.
type Audience uint8

// Audiences. The zero value asks for a client's key.
const (
	ToClients   Audience = iota // callers of the API: clients' keys, where there are any
	ToOwners                    // a client for its own, an admin for everything
	ToOperators                 // admins; clients where no admin is named, for nothing in it names a client
	ToAnybody                   // whoever asks, without a key, by whatever host
)

// callerOf finds out who sent a request, and what it may see on a route of a listener.
func (a *Access) callerOf(r *http.Request, to Audience, on Listener, local bool) (Caller, error) {
	given := presentedKey(r)
	client, keyed := holder(a.Keys, given)
	admin, ruling := holder(a.Admins, given)
	sees, err := a.judge(to, keyed, ruling, on, local)
	switch {
	case err != nil:
		return Caller{}, err
	case keyed:
		return Caller{client, true, sees}, nil
	case ruling && to != ToClients: // there an admin is a caller like any
		return Caller{admin, false, sees}, nil
	}
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return Caller{host, false, sees}, nil
}

// judge is the whole policy: what a caller sees, by the audience of the route, the keys that it holds, and the listener
// that it asks on. docs/access.md shows it as a table.
func (a *Access) judge(to Audience, client, admin bool, on Listener, local bool) (Sight, error) {
	noAdmins, noClients := len(a.Admins) == 0, len(a.Keys) == 0
	switch {
	case to == ToAnybody:
		return SeesOwn, nil
	case to == ToClients:
		if client || noClients {
			return SeesOwn, nil
		}
		return SeesOwn, errUnauthorized // an admin looks on, and spends nothing
	case admin, noAdmins && noClients, noAdmins && on == AdminListener && local:
		return SeesEverything, nil
	case !client && (noClients || !noAdmins && to == ToOperators):
		return SeesOwn, errAdminNeeded
	case !client:
		return SeesOwn, errUnauthorized
	case !noAdmins && to == ToOperators:
		return SeesOwn, errNotAdmin
	case noAdmins && on == AdminListener:
		return SeesTotals, nil
	}
	return SeesOwn, nil
}

// holder finds whose key it is. It takes as long for a wrong key as for a right one.
func holder(keys []Key, key string) (name string, found bool) {
	// Digests have one length, so the comparison tells nothing of the keys'.
	given := sha256.Sum256([]byte(key))
	for _, k := range keys {
		known := sha256.Sum256([]byte(k.Key))
		if subtle.ConstantTimeCompare(given[:], known[:]) == 1 {
			name, found = k.Name, true
		}
	}
	return name, found
}

// presentedKey is the key that a request carries, "" for none.
func presentedKey(r *http.Request) string {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") { // RFC 9110, section 11.1
		key = cmp.Or(r.Header.Get("Api-Key"), r.Header.Get("X-Api-Key"))
	}
	if key == "" && WantsWebsocket(r) {
		key = protocolKey(r)
	}
	return key
}
