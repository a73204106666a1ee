"""What tests share: programs, peers, servers, links."""
