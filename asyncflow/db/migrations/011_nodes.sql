-- Whose consumers those are is said by a setting, not by the name of the machine.

UPDATE OR REPLACE consumer SET host = 'local' WHERE host IN (SELECT host FROM here);
DROP TABLE here;
