package netns

import "github.com/stack-run/stack/netns/endpoint"

// The words of package endpoint, for those that also make what they speak of.
type (
	NetworkSpec  = endpoint.NetworkSpec
	Pool         = endpoint.Pool
	Network      = endpoint.Network
	Attachment   = endpoint.Attachment
	Port         = endpoint.Port
	EndpointSpec = endpoint.Spec
	ExtraHost    = endpoint.ExtraHost
	Synonym      = endpoint.Synonym
	Endpoint     = endpoint.Endpoint
	Link         = endpoint.Link
)
